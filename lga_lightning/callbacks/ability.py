"""Measures what edits leave of a model's general ability, over batches and devices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lga_lightning.callbacks.shares import in_step, share_of
from lga_lightning.editing import WeightDelta
from lga_lightning.evaluation.general import compare_scores
from lga_lightning.evaluation.harness import check_harness, harness_version, run_harness
from lga_lightning.exceptions import SettingError
from lga_lightning.job.general import TOGETHER, suite_for
from lga_lightning.metrics import RequestRecords
from lga_lightning.models.chat import plain
from lga_lightning.reports.terminal import print_note
from lga_lightning.reports.wording import counted
from lga_lightning.results.ability import AbilityResult
from lga_lightning.utils.dealing import from_the_first, gathered
from lga_lightning.utils.settings import check_at_least_one

SAMPLE = 16
"""Edits that stand for all where each is made alone."""


@dataclass
class AbilityCheck:
    """What is asked beside the edits, before them and after.

    Args:
        general: Whether the suite is asked; None where edits are made together, so that asking it once is enough.
        harness: Tasks of lm-evaluation-harness.
        harness_path: Folder with tasks of your own for it.
        harness_limit: Number of items of a task, the first so many; None for all.
        resamples: Bootstrap resamples for the intervals.

    Raises:
        SettingError: If a number is below 1, or there is a folder or a limit without tasks.
    """

    general: bool | None = None
    harness: Sequence[str] = ()
    harness_path: str | None = None
    harness_limit: int | None = None
    resamples: int = 1000
    _sample: list[int] = field(default_factory=list, init=False)
    _edits: dict[int, WeightDelta] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.harness_limit is not None:
            check_at_least_one(harness_limit=self.harness_limit)
        if not self.harness and (self.harness_path is not None or self.harness_limit is not None):
            raise SettingError(
                "`harness_path` and `harness_limit` say how tasks of lm-evaluation-harness are asked, and `harness` names none. "
                "Name some, as in --edits.harness '[arc_easy]'."
            )

    def check(self, mode: str) -> None:
        """Refuse, before a model is loaded, what cannot be asked.

        Args:
            mode: When edits are made.

        Raises:
            SettingError: If lm-evaluation-harness is to score edits that are each made alone, is not installed, or lacks a task.
        """
        if not self.harness:
            return
        if mode == "independent":
            raise SettingError(
                "`harness` scores one edited model, and in the mode 'independent' there is one for each request. Make the edits "
                "together (--model.mode batch) or one after the other (--model.mode sequential)."
            )
        check_harness(self.harness, self.harness_path)

    def begin(self, module: L.LightningModule) -> None:
        """Forget an earlier run, and choose the edits to look at where each is made alone.

        Args:
            module: The module that edits.

        Raises:
            SettingError: If lm-evaluation-harness is to run a model that is in shards.
        """
        if self.harness and in_step(module.trainer):
            raise SettingError(
                "`harness` runs in one process, and with a model in shards (ModelParallelStrategy) all processes have to run it together. "
                "Leave it out, or load the model whole."
            )
        self._edits, self._sample = {}, []
        if self.general and module.run_mode == "independent":
            count = len(module.data.requests)
            self._sample = sorted({i * (count - 1) // max(SAMPLE - 1, 1) for i in range(SAMPLE)})

    def add(self, scored: Any) -> None:
        """Keep the edits of a batch that are among those to look at."""
        for place, delta in zip(scored.index, scored.deltas, strict=True):
            if place in self._sample:
                self._edits[place] = delta

    def measure(self, module: L.LightningModule) -> dict[str, AbilityResult]:
        """Ask all that is to be asked, on all processes; a collective operation.

        Args:
            module: The module that has edited.

        Returns:
            Results under the names of :class:`~lga_lightning.results.validation.ValidationResult`'s fields.
        """
        found = {}
        together = module.schedule.delta is not None
        if self._sample:  # a run that is cut short has made some of them alone
            made = gathered(set(self._edits), module.device)
            self._sample = sorted(set().union(*made))
        if self._sample or (together and self.general is not False):
            found["general"] = self._ask_suite(module)
        if self.harness and together:
            found["harness"] = self._run_harness(module)
        return found

    def _ask_suite(self, module: L.LightningModule) -> AbilityResult:
        llm, tokenizer = module.language_model
        suite, asked = suite_for(llm, tokenizer, module.data.requests)
        _say(module, f"General ability: {asked}, before and after (--edits.general false leaves it out).")
        start, trainer = time.perf_counter(), module.trainer
        records = RequestRecords().to(module.device)
        for items, delta in self._shares(module, len(suite)):
            records.update(torch.tensor(items, dtype=torch.long), suite(items, delta).tolist())
        _, rows = records.compute()
        scores: Tensor = torch.tensor(rows, dtype=torch.float64)
        _say(module, f"It took {time.perf_counter() - start:.1f} s on {counted(trainer.world_size, 'process')}.")
        edited = TOGETHER
        if self._sample:
            edited = (
                f"each item under one of {counted(len(self._sample), 'edit')}, evenly spaced over the requests, in turn"
            )
        return AbilityResult.of(asked, edited, compare_scores(scores, self.resamples))

    def _shares(self, module: L.LightningModule, count: int) -> list[tuple[list[int], WeightDelta]]:
        """The items of this process by edit: its share of all, or those that fall to the edits that it has made."""
        trainer = module.trainer
        if not self._sample:
            rank, processes = share_of(trainer)
            return [(list(range(count))[rank::processes], module.schedule.delta)]
        found = [
            (list(range(number, count, len(self._sample))), self._edits[place])
            for number, place in enumerate(self._sample)
            if place in self._edits
        ]
        return found or [([], WeightDelta({}))]

    def _run_harness(self, module: L.LightningModule) -> AbilityResult:
        """On one process; the others wait."""
        llm, tokenizer = module.language_model
        limit = "" if self.harness_limit is None else f", the first {self.harness_limit} items of each"
        asked = f"{', '.join(self.harness)} of lm-evaluation-harness {harness_version()}{limit}"
        _say(module, f"General ability: {asked}, before and after.")
        limits = self.harness_path, self.harness_limit, self.resamples
        entries = from_the_first(
            lambda: run_harness(llm, plain(tokenizer), self.harness, module.schedule.delta, *limits)
        )
        return AbilityResult.of(asked, TOGETHER, entries)


def _say(module: L.LightningModule, text: str) -> None:
    if module.trainer.is_global_zero:
        print_note(text)
