"""Collects the results of edits over batches and devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lga_lightning.callbacks.ability import AbilityCheck
from lga_lightning.callbacks.host import check_own_module
from lga_lightning.data.corpus import read_passages
from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.judges import named_judge
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.evaluation.protocols import NEUTRAL_TEXT, ProtocolName
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.exceptions import SettingError
from lga_lightning.metrics import RequestRecords
from lga_lightning.models.chat import as_asked, asks_in_chat
from lga_lightning.results.retention import Cohort
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EditCollector(L.Callback):
    """Says what is measured about the edits of :class:`~lga_lightning.LGAModule`, and collects it over batches and devices.

    The common part of :class:`EditReport` and :class:`AdapterWriter`, which write the results.

    Args:
        generate: Whether the model answers every prompt in its own words, beside the teacher-forced scores, which alone
            flatter. It takes most of the time of scoring.
        max_new_tokens: Tokens at which such an answer is cut, if no accepted answer is longer; None for 50, and for 200 in the protocol ``wild``.
        fluency: Whether the model also continues every request's generation prompts by 100 tokens, to measure how
            repetitive that is.
        text: Plain text (a file, or a data set of the Hub), to measure how edits move the perplexity of text that has nothing
            to do with them.
        metrics: Metrics of your own, beside the built-in ones (``docs/extending/metric.md``).
        resamples: Bootstrap resamples for the intervals.
        protocol: How the model is let speak: ``completion``, or ``wild`` as its users let it (``docs/metrics.md``).
        chat: In the protocol ``wild``, whether prompts are asked in the chat template; None where the model is one that chats.
        context: In the protocol ``wild``, a text to put before every prompt when it is asked a second time; "" for no second time.
        judge: Says of each answer whether it states what it should: a model by name, or the OpenAI-compatible address of one
            (``http://HOST:PORT/v1``; a key is taken from the environment variable ``LGA_JUDGE_KEY``).
        judge_model: Behind an address, what the server calls the model.
        judge_timeout: Seconds that a server may say nothing.
        general: Whether a small suite (questions about facts that no request touches, plain text) is asked before and after the
            edits. None asks it where edits are made together or one after the other, so that once is enough; with edits that
            are each made alone, 16 of them share its items.
        harness: Tasks of lm-evaluation-harness (``pip install 'lga-lightning[harness]'``) to run before and after the edits.
        harness_path: Folder with tasks of your own for it, as YAML.
        harness_limit: Number of items of a task, the first so many.
        save_every: Number of groups, or of edits that are each made alone, after which a run leaves its state in ``default_root_dir``,
            from which the same command goes on; 0 for never.
        probes: Prompts with the opposite sense, to which the new answer is wrong: ``negation``, ``contradiction`` or a list of both.
        scored: Where requests are edited together or one after the other, how many of them are scored at the end, and how many of those so far
            in between, drawn at random: scoring thousands may take longer than editing them. None for all.

    Attributes:
        result: The result, once it is there; on every process.

    Raises:
        SettingError: If a number is below 1 (``save_every``: below 0), a probe is unknown, settings do not go together, or ``harness`` is
            missing where it is meant.
    """

    def __init__(
        self,
        generate: bool = True,
        max_new_tokens: int | None = None,
        fluency: bool = False,
        text: str | None = None,
        metrics: list[EditMetric] | None = None,
        resamples: int = 1000,
        protocol: ProtocolName = "completion",
        chat: bool | None = None,
        context: str = NEUTRAL_TEXT,
        judge: str | None = None,
        judge_model: str | None = None,
        judge_timeout: float = 60.0,
        general: bool | None = None,
        harness: list[str] | None = None,
        harness_path: str | None = None,
        harness_limit: int | None = None,
        save_every: int = 50,
        probes: str | list[str] | None = None,
        scored: int | None = None,
    ) -> None:
        check_at_least_one(resamples=resamples)
        if save_every < 0:
            raise SettingError(f"`save_every` must be a number of groups, or 0 for never, got {save_every}.")
        kinds = (probes,) if isinstance(probes, str) else tuple(probes or ())
        self.config = EvaluationConfig(
            generate,
            max_new_tokens,
            fluency,
            metrics=tuple(metrics or ()),
            protocol=protocol,
            chat=chat,
            context=context,
            judge=named_judge(judge, judge_model, judge_timeout),
            probes=kinds,
            scored=scored,
        )
        self.text = text
        self.resamples = resamples
        self.ability = AbilityCheck(general, tuple(harness or ()), harness_path, harness_limit, resamples)
        self.save_every = save_every
        self.records = RequestRecords()
        self._parts: dict[str, Any] = {}  # of the result, beside the requests' scores
        self.result: ValidationResult | None = None

    @cached_property
    def evaluation(self) -> EvaluationConfig:
        """What is measured; the text is read when this is first asked for."""
        passages = read_passages(self.text) if self.text is not None else ()
        return replace(self.config, passages=passages)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a module that edits nothing, and a text or a judge that is not there, before the model is loaded."""
        if stage != "fit":
            check_own_module(self, pl_module)
            self.ability.check(pl_module.run_mode)
            _ = self.evaluation
            if pl_module.evaluation.scored is not None and pl_module.run_mode == "independent":
                raise SettingError(
                    "`scored` is for requests that are edited together or one after the other (--model.mode batch or sequential). One that is "
                    "edited alone is scored then and there: leave it out, and use --data.limit for fewer requests."
                )
            judge = pl_module.evaluation.judge
            if judge is not None:
                judge.check()

    @property
    def needs_edits(self) -> bool:
        """Whether edits that are each made alone are needed beyond their results, so that none of an earlier run will do."""
        return bool(self.ability.general)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say how to go on when the user interrupts a run."""
        state = getattr(pl_module, "run_state", None)
        if isinstance(exception, KeyboardInterrupt) and state is not None and state.path.is_file():
            rank_zero_warn("Interrupted. The same command goes on from what was saved last.")

    def begin(self, module: L.LightningModule) -> None:
        """Forget an earlier run, and refuse to ask in a chat template that is not there.

        Args:
            module: The module that edits.
        """
        self._asking(module)
        self.records = RequestRecords().to(module.device)
        self._parts = {}
        self.ability.begin(module)

    def add_results(self, scored: Any) -> None:
        """Add scored edits, if there are any."""
        if scored is not None:
            records = [[asdict(result) for result in of_request] for of_request in scored.results]
            self.records.update(torch.tensor(scored.index, dtype=torch.long), records)
            self.ability.add(scored)

    def gather_results(self, module: L.LightningModule) -> tuple[list[int], list[EditRequest], list[list[EvalResult]]]:
        """Positions of the requests, the requests and their results, over all processes; a collective operation."""
        self.add_results(module.finish_edits())
        index, records = self.records.compute()
        requests = module.data.requests
        results = [[EvalResult.of(record) for record in of_request] for of_request in records]
        self._parts = {**self.ability.measure(module), **_retention(module, dict(zip(index, results, strict=True)))}
        return index, [requests[place] for place in index], results

    def build_result(
        self, module: L.LightningModule, requests: Sequence[EditRequest], results: Sequence[Sequence[EvalResult]]
    ) -> ValidationResult:
        """The result of some requests, as it is written to a file.

        Args:
            module: The module that has edited.
            requests: The requests.
            results: The results of each.
        """
        data = module.data
        result = ValidationResult.build(
            requests,
            results,
            model_name=module.model_name,
            data_name=data.name,
            layers=module.edited_layers,
            layer_source=module.layer_source,
            method=module.editor.settings(module.llm),
            mode=module.run_mode,
            skipped=data.skipped,
            evaluation=module.evaluation,
            in_chat=asks_in_chat(self._asking(module)),
            resamples=self.resamples,
            group_size=module.schedule.group_size,
            drift=module.schedule.drift,
            change=module.schedule.relative_norms(),
            governor=module.schedule.governed(),
            num_requests=len(module.schedule.edited),
        )
        return replace(result, **self._parts)

    @staticmethod
    def _asking(module: L.LightningModule) -> PreTrainedTokenizerBase:
        """The tokenizer with which a model that speaks freely is asked."""
        llm, tokenizer = module.language_model
        return as_asked(llm, tokenizer, module.evaluation.chat)


def _retention(module: L.LightningModule, results: Mapping[int, Sequence[EvalResult]]) -> dict[str, Any]:
    """What became of early facts, the final results included, and what the edits cost; nothing where nobody looked."""
    cohorts: list[Cohort] = module.schedule.cohorts
    for cohort in cohorts:
        if results.keys() >= set(cohort.index):
            cohort.note(len(module.schedule.edited), [results[place] for place in cohort.index])
    found = {"cohorts": cohorts, "growth": module.schedule.growth}
    return {name: part for name, part in found.items() if part}
