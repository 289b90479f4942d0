"""Collects the outcomes of edits over batches and devices, and writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lga_lightning.data.corpus import read_passages
from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.edit_metrics import EditMetric
from lga_lightning.evaluation.evaluator import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.evaluation.summary import INTERVALS, mean_by_group, summarise
from lga_lightning.exceptions import SettingError
from lga_lightning.metrics import RequestRecords
from lga_lightning.modules.lga import LGAModule
from lga_lightning.reports.html import write_report
from lga_lightning.reports.terminal import print_edits, print_places
from lga_lightning.results.attribution import SCHEMA
from lga_lightning.results.validation import REQUESTS_FILE, VALIDATION_FILE, write_outcomes
from lga_lightning.results.versions import versions
from lga_lightning.utils.io import write_json

MODES = {
    "independent": "every request edited alone, on the unedited model",
    "batch": "all requests edited together, then scored",
    "sequential": "requests edited one group after the other, with all earlier edits in place, then scored",
}


class EditReport(L.Callback):
    """Says what is measured about edits, and writes it in ``default_root_dir``.

    ``validation.json`` holds scores before and after, in the mean with intervals and by request; ``requests.parquet`` every
    question with what the model said; ``report.html`` shows both, with the attribution where the folder has one. The means are also logged, as ``rewrite/before``, ``rewrite/after``,
    ``generated/rewrite/after``, ..., so that ``trainer.validate`` returns them.

    Args:
        generate: Let the model answer every question in its own words, beside the teacher-forced scores, which alone flatter.
            It takes most of the time of scoring.
        max_new_tokens: Where such an answer is cut at the latest.
        fluency: Let the model also continue every request's generation prompts by 100 tokens, and measure how repetitive that is.
        text: Plain text (a file, or a data set of the Hub as ``hub:owner/name``), to measure how edits move the perplexity of
            text that has nothing to do with them.
        resamples: Bootstrap resamples for the intervals.
        metrics: Metrics of yours, beside the built-in ones.

    Raises:
        SettingError: If a number is below 1, or a metric has no name of its own or no protocol.
    """

    def __init__(
        self,
        generate: bool = True,
        max_new_tokens: int = 50,
        fluency: bool = False,
        text: str | None = None,
        resamples: int = 1000,
        metrics: list[EditMetric] | None = None,
    ) -> None:
        if resamples < 1:
            raise SettingError(f"`resamples` must be at least 1, got {resamples}.")
        self.evaluation = EvaluationConfig(generate, max_new_tokens, fluency, metrics=tuple(metrics or ()))
        self.text = text
        self.resamples = resamples
        self.records = RequestRecords()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the text, and tell the module what is measured."""
        if isinstance(pl_module, LGAModule) and stage != "fit":
            passages = read_passages(self.text) if self.text is not None else ()
            pl_module.evaluation = EvaluationConfig(**{**vars(self.evaluation), "passages": passages})

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self.records = RequestRecords().to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the outcomes of a batch."""
        if isinstance(pl_module, LGAModule):
            self.records.update(outputs["index"], outputs["results"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the outcomes of all processes together, log their means and write the files."""
        if not isinstance(pl_module, LGAModule) or not self.records.index:
            return
        index, outcomes, content = self.put_together(trainer, pl_module)
        pl_module.log_dict(_flat(content["metrics"]), sync_dist=True)  # the same on every process
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / VALIDATION_FILE
            requests = trainer.datamodule.loaded.requests  # type: ignore[attr-defined]
            ids, extra = [requests[i].id for i in index], self.evaluation.metrics
            write_outcomes(path.with_name(REQUESTS_FILE), index, ids, outcomes, extra)
            write_json(path, content)
            write_report(path.parent)
            print_edits(content)
            print_places(content, path)

    def put_together(
        self, trainer: L.Trainer, module: LGAModule
    ) -> tuple[list[int], list[list[EvalResult]], dict[str, Any]]:
        """The outcomes of all processes, and what the result file says of them; a collective operation.

        Returns:
            Indices of requests, their outcomes, and the file's content.
        """
        index, records = self.records.compute()
        outcomes = [[EvalResult.of(record) for record in of_request] for of_request in records]
        return index, outcomes, self.content(trainer, module, index, outcomes)

    def content(
        self, trainer: L.Trainer, module: LGAModule, index: Sequence[int], outcomes: Sequence[Sequence[EvalResult]]
    ) -> dict[str, Any]:
        """What a result file says of some requests.

        Args:
            trainer: For the data.
            module: What has edited.
            index: Of the requests.
            outcomes: Theirs.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        requests = [data.loaded.requests[i] for i in index]
        content = {
            "schema": SCHEMA,
            "model": module.model_name,
            "data": data.name,
            "layers": module.edited_layers,
            "layer_source": module.layer_source,
            "method": module.editor.settings(module.language_model[0]),
            "mode": module.mode,
            "mode_means": MODES[module.mode],
            "num_requests": len(outcomes),
            "num_skipped": dict(data.loaded.skipped),
            "intervals": INTERVALS.format(resamples=self.resamples, seed=0),
            "metrics": summarise(
                outcomes, self.evaluation.max_new_tokens, self.resamples, metrics=self.evaluation.metrics
            ),
        }
        if module.mode != "independent":
            content["group_size"] = data.batch_size if module.mode == "sequential" else len(outcomes)
            content["drift"] = [_drift(d.edits, d.change, d.outcomes) for d in module.drift]
            content["drift"].append(_drift(len(outcomes), module.change, outcomes))
        content["requests"] = [_row(*pair) for pair in zip(requests, outcomes, strict=True)]
        content["versions"] = versions()
        return content


def _drift(edits: int, change: dict[int, float], outcomes: Sequence[Sequence[EvalResult]]) -> dict[str, Any]:
    """A point of the drift curve: teacher-forced means over the facts edited so far."""
    metrics = summarise(outcomes, resamples=1)
    after = {name: metric["after"] for name, metric in metrics.items() if "." not in name}
    return {"edits": edits, "relative_change": {str(layer): size for layer, size in change.items()}, **after}


def _flat(metrics: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Means under names for loggers."""
    flat: dict[str, float] = {}
    for name, entry in metrics.items():
        for prefix, sides in (("", entry), ("generated/", entry.get("generated", {}))):
            flat |= {f"{prefix}{name}/{side}": sides[side] for side in ("before", "after") if side in sides}
    return flat


def _row(request: EditRequest, outcomes: Sequence[EvalResult]) -> dict[str, Any]:
    """One request's part of the file."""
    return {
        "id": request.id,
        "prompt": request.prompt,
        "subject": request.subject,
        "target_old": request.target_old,
        "target_new": request.target_new,
        **mean_by_group(outcomes),
    }
