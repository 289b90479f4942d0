"""Collects what became of edits over batches and devices, and writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lga_lightning.callbacks.host import check_own_module
from lga_lightning.data.corpus import read_passages
from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.edit_metrics import EditMetric
from lga_lightning.evaluation.evaluator import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.exceptions import SettingError
from lga_lightning.metrics import RequestRecords
from lga_lightning.reports.html import write_report
from lga_lightning.reports.terminal import print_edits, print_places
from lga_lightning.results.validation import REQUESTS_FILE, VALIDATION_FILE, ValidationResult, write_results


class EditReport(L.Callback):
    """Says what is measured about the edits of :class:`~lga_lightning.LGAModule`, and writes it in ``default_root_dir``.

    ``validation.json`` holds scores before and after, in the mean with intervals and by request; ``requests.parquet`` every
    prompt with what the model said; ``report.html`` shows both, with the attribution where the folder has one. The means are
    also logged, as ``rewrite/before``, ``rewrite/after``, ``generated/rewrite/after``, ..., so that ``trainer.validate``
    returns them. A module without a report gets one by itself.

    Args:
        generate: Whether the model answers every prompt in its own words, beside the teacher-forced scores, which alone
            flatter. It takes most of the time of scoring.
        max_new_tokens: Tokens at which such an answer is cut at the latest.
        fluency: Whether the model also continues every request's generation prompts by 100 tokens, to measure how
            repetitive that is.
        text: Plain text (a file, or a data set of the Hub), to measure how edits move the perplexity of text that has nothing
            to do with them.
        metrics: Metrics of your own, beside the built-in ones (``docs/extending/metric.md``).
        resamples: Bootstrap resamples for the intervals.

    Attributes:
        result: The result, once it is there; on every process.

    Raises:
        SettingError: If a number is below 1.
    """

    def __init__(
        self,
        generate: bool = True,
        max_new_tokens: int = 50,
        fluency: bool = False,
        text: str | None = None,
        metrics: list[EditMetric] | None = None,
        resamples: int = 1000,
    ) -> None:
        if resamples < 1:
            raise SettingError(f"`resamples` must be at least 1, got {resamples}.")
        self.config = EvaluationConfig(generate, max_new_tokens, fluency, metrics=tuple(metrics or ()))
        self.text = text
        self.resamples = resamples
        self.records = RequestRecords()
        self.result: ValidationResult | None = None

    @cached_property
    def evaluation(self) -> EvaluationConfig:
        """What is measured; the text is read when this is first asked for."""
        passages = read_passages(self.text) if self.text is not None else ()
        return EvaluationConfig(**{**vars(self.config), "passages": passages})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a module that edits nothing, and a text that is not there, before the model is loaded."""
        if stage != "fit":
            check_own_module(self, pl_module)
            _ = self.evaluation

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
        """Take in what became of a batch."""
        self.take(outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the results of all processes together, log their means and write the files."""
        index, requests, results = self.put_together(pl_module)
        self.result = self.describe(pl_module, requests, results)
        pl_module.log_dict(self.result.means())  # the same on every process
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / VALIDATION_FILE
            write_results(path.with_name(REQUESTS_FILE), index, [request.id for request in requests], results)
            self.result.save(path)
            write_report(path.parent)
            print_edits(self.result)
            print_places(self.result, path)

    def take(self, scored: Any) -> None:
        """Take in scored edits, if there are any."""
        if scored is not None:
            records = [[asdict(result) for result in of_request] for of_request in scored.results]
            self.records.update(torch.tensor(scored.index, dtype=torch.long), records)

    def put_together(self, module: L.LightningModule) -> tuple[list[int], list[EditRequest], list[list[EvalResult]]]:
        """Positions of the requests, the requests and their results, over all processes; a collective operation."""
        self.take(module.finish_edits())
        index, records = self.records.compute()
        requests = module.data.requests
        results = [[EvalResult.of(record) for record in of_request] for of_request in records]
        return index, [requests[place] for place in index], results

    def describe(
        self, module: L.LightningModule, requests: Sequence[EditRequest], results: Sequence[Sequence[EvalResult]]
    ) -> ValidationResult:
        """What a result file says of some requests.

        Args:
            module: What has edited.
            requests: The requests.
            results: What became of each.
        """
        data, mode = module.data, module.run_mode
        return ValidationResult.build(
            requests,
            results,
            model_name=module.model_name,
            data_name=data.name,
            layers=module.edited_layers,
            layer_source=module.layer_source,
            method=module.editor.settings(module.llm),
            mode=mode,
            skipped=data.skipped,
            evaluation=module.evaluation,
            resamples=self.resamples,
            group_size=data.batch_size if mode == "sequential" else None,
            drift=module.schedule.drift,
            change=module.schedule.relative_norms(),
        )
