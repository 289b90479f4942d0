"""Writes edits as adapters, or as merged models, with a page that says what was edited and how it scores."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from lga_lightning.callbacks.edit_collector import EditCollector
from lga_lightning.callbacks.shares import in_step
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import WeightDelta
from lga_lightning.editing.adapter import NOTE, check_any, check_finite, errors_in_json, save_updates
from lga_lightning.editing.in_place import check_mergeable
from lga_lightning.editing.serving import SERVED_RANKS, served_rank
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.exceptions import ModelError, SettingError
from lga_lightning.models.chat import plain
from lga_lightning.models.loading import hub_name
from lga_lightning.models.storage import is_sharded, whole_state, writes
from lga_lightning.reports.model_card import leave_card
from lga_lightning.reports.terminal import print_edits, print_written
from lga_lightning.results.validation import ValidationResult
from lga_lightning.results.validation_parts import Metric
from lga_lightning.utils.io import (
    already_there,
    check_place,
    put_back,
    put_in_place,
    stays,
    user_path,
    write_folder,
    write_json,
)
from lga_lightning.utils.scratch import scratch_beside
from lga_lightning.utils.settings import check_at_least_one

ALLOW = "Give another one (--edits.output), or allow it with --edits.overwrite true."


class AdapterWriter(EditCollector):
    """In ``predict``, writes the edits: a PEFT LoRA adapter with all of them, or one for each request that is edited alone.

    Takes the arguments of :class:`EditCollector`, and:

    Args:
        output: Folder to write; ``adapter`` in ``default_root_dir`` by default. In the mode ``independent`` it holds a folder a
            request, named by its number and subject, and appears when all are written.
        merge: Whether to write the edited model, in safetensors and with its tokenizer, instead of an adapter.
        max_rank: Rank that no module's change is written above: of dense changes, and of more facts than that, what the largest singular
            values hold, as a LoRA adapter. What this leaves out is said in the card. None writes edits whole.
        serve: The server that it must be fit for, ``vllm``: all modules get one rank of those that it takes (8, 16, 32, 64, 128, 256, 320,
            512), filled up with zeros, or folded as with ``max_rank`` where there is more.
        overwrite: Whether to replace a folder that is there, with all that it holds.
        arguments: Arguments of :class:`EditCollector`.

    Attributes:
        error: Largest relative error of a matrix's change that was written with a lower rank; None if all are whole.
        folded: Scores of the edit that was written last, by metric, where it is of a lower rank; None where it is whole.
    """

    def __init__(
        self,
        output: str | None = None,
        merge: bool = False,
        overwrite: bool = False,
        max_rank: int | None = None,
        serve: Literal["vllm"] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        if max_rank is not None:
            check_at_least_one(max_rank=max_rank)
        if merge and (max_rank is not None or serve is not None):
            raise SettingError(
                "`max_rank` and `serve` are for adapters, and `merge` writes the edited model, which has room for the whole edit. Leave "
                "out one of them."
            )
        self.serve = serve
        self.max_rank = min(max_rank or SERVED_RANKS[-1], SERVED_RANKS[-1]) if serve else max_rank
        self.error: float | None = None
        self.folded: dict[str, Metric] | None = None
        self.output = output
        self.merge = merge
        self.overwrite = overwrite
        self.folder = Path()
        self._staged = ExitStack()
        self._stage = Path()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew; a folder that must not be overwritten, or cannot be written, is refused before anything is edited."""
        self.begin(pl_module)
        if self.merge:
            check_mergeable(pl_module.language_model[0])
        self.error, self.folded = None if self.max_rank is None else 0.0, None
        name = "merged" if self.merge else "adapter"
        self.folder = user_path(self.output) if self.output else Path(trainer.default_root_dir) / name
        # one process looks for all, before any of them writes
        if trainer.is_global_zero:
            put_back(self.folder)
        if trainer.strategy.broadcast(stays(self.folder, self.overwrite)):
            raise already_there(self.folder, ALLOW)
        check_place(self.folder)
        if pl_module.run_mode == "independent":
            scratch = scratch_beside(self.folder.resolve(), folder=True)
            stage = str(self._staged.enter_context(scratch)) if trainer.is_global_zero else ""
            self._stage = Path(trainer.strategy.broadcast(stage))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the results of a batch, and write the edits of requests that are edited alone."""
        self.add_results(outputs)
        if outputs is None:
            return
        edits: dict[int, list[int]] = {}  # requests of one group share one
        for row, delta in enumerate(outputs.deltas):
            edits.setdefault(id(delta), []).append(row)
        for rows in edits.values():
            requests = [outputs.requests[row] for row in rows]
            try:
                check_any(outputs.deltas[rows[0]].updates)
                check_finite(outputs.deltas[rows[0]].updates)
            except ModelError as error:
                warnings.warn(f"The edit of {requests[0].prompt!r} is left out. {error}", stacklevel=1)
                continue
            mine = self._stage / f".{trainer.global_rank}"  # the last batches may be dealt to two processes
            folder = mine / f"{outputs.index[rows[0]]:04d}-{_slug(requests[0])}"
            written = folder.exists()
            if not (trainer.strategy.broadcast(written) if in_step(trainer) else written):
                result = self.build_result(pl_module, requests, [outputs.results[row] for row in rows])
                self._write(pl_module, outputs.deltas[rows[0]], folder, requests, result)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the results of all processes together, and write the edits that were made together."""
        _, requests, results = self.gather_results(pl_module)
        self.result = self.build_result(pl_module, requests, results)
        if self.error is not None:
            largest = torch.tensor(self.error, device=pl_module.device)
            self.error = float(trainer.strategy.reduce(largest, reduce_op="max"))
        together = pl_module.schedule.delta is not None
        if together and (trainer.is_global_zero or in_step(trainer)):
            check_any(pl_module.schedule.delta.updates)
            check_finite(pl_module.schedule.delta.updates)  # before it is folded, or merged
            self._write(pl_module, pl_module.schedule.delta, self.folder, requests, self.result, self.overwrite)
        if not trainer.is_global_zero:
            return
        if not together and pl_module.run_mode == "independent":
            self._put_together()
        print_edits(self.result)
        print_written(self.result, self.folder, self.merge, self.error, self.folded)
        if pl_module.run_state is not None:
            pl_module.run_state.remove()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave nothing that looks like a whole set of edits."""
        super().on_exception(trainer, pl_module, exception)
        self._staged.close()

    @property
    def needs_edits(self) -> bool:
        """All of them: they are written."""
        return True

    def _put_together(self) -> None:
        """Give the folders of all processes their place, all at once.

        Raises:
            ModelError: If there is none.
        """
        for folder in sorted(self._stage.glob(".*/*")):
            if not (self._stage / folder.name).exists():
                folder.rename(self._stage / folder.name)
        for mine in self._stage.glob(".*"):
            shutil.rmtree(mine)
        if not any(self._stage.iterdir()):
            raise ModelError(
                f"Every edit was left out, as the warnings say, so nothing was written to {str(self.folder)!r}."
            )
        put_in_place(self._stage, self.folder)
        self._staged.close()

    def _write(
        self,
        module: L.LightningModule,
        delta: WeightDelta,
        folder: Path,
        requests: Sequence[EditRequest],
        result: ValidationResult,
        overwrite: bool = False,
    ) -> None:
        """Write an edit with the results of its requests; with a model in shards all processes call this, and the first writes."""
        llm, tokenizer = module.language_model
        here = writes(llm)
        base = hub_name(module.model_name)
        facts = module.schedule.edited or requests  # of those that are edited together, some may not have been scored
        note, error, folded = result.to_dict(), None, None
        if self.max_rank is not None:
            delta, errors = delta.low_rank(self.max_rank)
            error = max((of_module.frobenius for of_module in errors.values()), default=0.0)
            self.error = max(self.error or 0.0, error)
            note["low_rank"] = {"max_rank": self.max_rank, **errors_in_json(errors)}
            if error:
                results = evaluate(llm, tokenizer, requests, [delta] * len(requests), module.evaluation)
                folded = self.build_result(module, requests, results).metrics
                self.folded = folded if module.schedule.joint else None  # of many edits none stands for all
                note["low_rank"]["metrics"] = {name: metric.to_dict() for name, metric in folded.items()}
        rank = served_rank(max(delta.ranks.values(), default=1)) if self.serve else None
        kind: Literal["adapter", "matrices", "merged"] = (
            "merged" if self.merge else "matrices" if delta.is_dense else "adapter"
        )
        ranks = dict.fromkeys(delta.ranks, rank) if rank else delta.ranks

        def add_card(scratch: Path) -> None:
            leave_card(scratch, result, facts, ranks, kind, error, folded)

        if not self.merge:
            save_updates(delta.updates, folder, llm, base, note, overwrite, delta.facts, rank, add_card, here)
            return

        weights = None
        if is_sharded(llm):
            with delta.applied(llm):
                weights = whole_state(llm, keep=here)

        def write(scratch: Path) -> None:
            with delta.applied(llm) if weights is None else nullcontext():
                llm.save_pretrained(scratch, state_dict=weights)
            plain(tokenizer).save_pretrained(scratch)
            write_json(scratch / NOTE, {"base_model": base, **result.to_dict()})
            add_card(scratch)

        if here:
            write_folder(folder, write, overwrite)


def _slug(request: EditRequest) -> str:
    return re.sub(r"\W+", "-", request.about).strip("-")[:40] or "request"
