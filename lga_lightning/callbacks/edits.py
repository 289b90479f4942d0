"""Collects the scores of edits over batches and devices, and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from lga_lightning.evaluation import PROTOCOLS
from lga_lightning.files import write_json
from lga_lightning.metrics import RequestTable
from lga_lightning.module import LGAModule
from lga_lightning.report import print_edits
from lga_lightning.requests import EditRequest
from lga_lightning.results import SCHEMA, versions

VALIDATION_FILE = "validation.json"


class EditReport(L.Callback):
    """Writes ``validation.json`` in ``default_root_dir``: scores before and after, in the mean and by request.

    The means are also logged, as ``rewrite/before``, ``rewrite/after``, ..., so that ``trainer.validate`` returns them.
    """

    def __init__(self) -> None:
        self.table = RequestTable()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self.table = RequestTable().to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the scores of a batch."""
        if isinstance(pl_module, LGAModule):
            self.table.update(**outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the scores of all processes together, log their means and write the file."""
        if not isinstance(pl_module, LGAModule) or not self.table.index:
            return
        index, values = self.table.compute()
        values = values.cpu()
        columns = pl_module.columns
        means = summarise(values, columns)
        flat = {f"{name}/{side}": mean for name, sides in means.items() for side, mean in sides.items()}
        pl_module.log_dict(flat, sync_dist=True)  # the same on every process
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        requests = data.loaded.requests
        content = {
            "schema": SCHEMA,
            "model": pl_module.model_name,
            "data": data.name,
            "layer": pl_module.edited_layer,
            "layer_source": pl_module.layer_source,
            "method": pl_module.editor.settings(pl_module.language_model[0]),
            "mode": "independent: every request edited alone, on the unedited model",
            "num_requests": len(values),
            "num_skipped": dict(data.loaded.skipped),
            "metrics": {name: {**sides, "protocol": PROTOCOLS[name.split(".")[0]]} for name, sides in means.items()},
            "requests": [_row(requests[i], row, columns) for i, row in zip(index.tolist(), values, strict=True)],
            "versions": versions(),
        }
        path = Path(trainer.default_root_dir) / VALIDATION_FILE
        write_json(path, content)
        print_edits(content, path)


def summarise(values: Tensor, columns: list[str]) -> dict[str, dict[str, float]]:
    """Means over requests, before and after: of every column, and of portability and locality over their kinds.

    Args:
        values: [N, 2, C] scores, NaN where a request has no such question.
        columns: The C groups of questions.
    """
    means: dict[str, dict[str, float]] = {}
    for name in ("rewrite", "rephrase", "portability", "locality"):
        members = [c for c, column in enumerate(columns) if column.split(".")[0] == name]
        if members:
            means[name] = _sides(values[:, :, members].nanmean(2))  # kinds first, then requests
            means |= {columns[c]: _sides(values[:, :, c]) for c in members if columns[c] != name}
    return means


def _sides(scores: Tensor) -> dict[str, float]:
    before, after = scores.nanmean(0).tolist()
    return {"before": before, "after": after}


def _row(request: EditRequest, scores: Tensor, columns: list[str]) -> dict[str, Any]:
    """One request's part of the file."""
    before, after = scores.tolist()
    return {
        "id": request.id,
        "prompt": request.prompt,
        "subject": request.subject,
        "target_old": request.target_old,
        "target_new": request.target_new,
        **{name: {"before": b, "after": a} for name, b, a in zip(columns, before, after, strict=True) if a == a},
    }
