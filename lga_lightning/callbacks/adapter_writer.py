"""Writes edits as adapters, or as merged models, with a page that says what was edited and how it scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L

from lga_lightning.callbacks.edit_collector import EditCollector
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import WeightDelta
from lga_lightning.editing.adapter import NOTE, save_updates
from lga_lightning.models.chat import plain
from lga_lightning.models.loading import hub_name
from lga_lightning.reports.model_card import model_card
from lga_lightning.reports.terminal import print_edits, print_written
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.io import already_there, write_folder, write_json


class AdapterWriter(EditCollector):
    """In ``predict``, writes the edits: a PEFT LoRA adapter with all of them, or one for each request that is edited alone.

    Takes the arguments of :class:`EditCollector`, and:

    Args:
        output: Folder to write; ``adapter`` in ``default_root_dir`` by default. In the mode ``independent`` it holds a folder a
            request, named by its number and subject.
        merge: Whether to write the edited model, in safetensors and with its tokenizer, instead of an adapter.
        overwrite: Whether to replace a folder that is there. In the mode ``independent`` the folders of other requests stay.
        arguments: Arguments of :class:`EditCollector`.
    """

    def __init__(
        self, output: str | None = None, merge: bool = False, overwrite: bool = False, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.output = output
        self.merge = merge
        self.overwrite = overwrite
        self.folder = Path()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew; a folder that must not be overwritten is refused before anything is edited."""
        self.begin(pl_module)
        name = "merged" if self.merge else "adapter"
        self.folder = Path(self.output).expanduser() if self.output else Path(trainer.default_root_dir) / name
        # one process looks for all, before any of them writes
        if trainer.strategy.broadcast(self.folder.exists()) and not self.overwrite:
            raise already_there(self.folder)

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
        for place, request, delta, results in zip(
            outputs.index, outputs.requests, outputs.deltas, outputs.results, strict=True
        ):
            folder = self.folder / f"{place:04d}-{_slug(request)}"
            if self.overwrite or not folder.exists():  # the last batches may be dealt to two processes
                self._write(pl_module, delta, folder, [request], self.build_result(pl_module, [request], [results]))

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the results of all processes together, and write the edits that were made together."""
        _, requests, results = self.gather_results(pl_module)
        self.result = self.build_result(pl_module, requests, results)
        if not trainer.is_global_zero:
            return
        if pl_module.schedule.delta is not None:
            self._write(pl_module, pl_module.schedule.delta, self.folder, requests, self.result)
        print_edits(self.result)
        print_written(self.result, self.folder, self.merge)
        if pl_module.run_state is not None:
            pl_module.run_state.remove()

    def _write(
        self,
        module: L.LightningModule,
        delta: WeightDelta,
        folder: Path,
        requests: Sequence[EditRequest],
        result: ValidationResult,
    ) -> None:
        llm, tokenizer = module.language_model
        base = hub_name(module.model_name)
        kind: Literal["adapter", "matrices"] = "matrices" if delta.is_dense else "adapter"
        card = model_card(result, requests, delta.ranks, "merged" if self.merge else kind)
        if not self.merge:
            save_updates(delta.updates, folder, llm, base, result.to_dict(), card, self.overwrite)
            return

        def write(scratch: Path) -> None:
            with delta.applied(llm):
                llm.save_pretrained(scratch)
            plain(tokenizer).save_pretrained(scratch)
            write_json(scratch / NOTE, {"base_model": base, **result.to_dict()})
            (scratch / "README.md").write_text(card, encoding="utf-8")

        write_folder(folder, write, self.overwrite)


def _slug(request: EditRequest) -> str:
    return re.sub(r"\W+", "-", request.subject).strip("-")[:40] or "request"
