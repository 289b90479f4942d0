"""Collects the outcomes of edits over batches and devices, and writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lga_lightning.data.corpus import read_passages
from lga_lightning.evaluation.evaluator import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.exceptions import SettingError
from lga_lightning.metrics import RequestRecords
from lga_lightning.modules.lga import LGAModule
from lga_lightning.reports.html import write_report
from lga_lightning.reports.terminal import print_edits, print_places
from lga_lightning.results.scores import DriftPoint
from lga_lightning.results.validation import REQUESTS_FILE, VALIDATION_FILE, ValidationResult, write_outcomes


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
        text: Plain text (a file, or a data set of the Hub), to measure how edits move the perplexity of text that has nothing
            to do with them.
        resamples: Bootstrap resamples for the intervals.

    Raises:
        SettingError: If a number is below 1.
    """

    def __init__(
        self,
        generate: bool = True,
        max_new_tokens: int = 50,
        fluency: bool = False,
        text: str | None = None,
        resamples: int = 1000,
    ) -> None:
        if resamples < 1:
            raise SettingError(f"`resamples` must be at least 1, got {resamples}.")
        self.evaluation = EvaluationConfig(generate, max_new_tokens, fluency)
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
            self.records.update(outputs["index"], outputs["outcomes"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the outcomes of all processes together, log their means and write the files."""
        if not isinstance(pl_module, LGAModule) or not self.records.index:
            return
        index, outcomes, result = self.put_together(trainer, pl_module)
        pl_module.log_dict(result.means(), sync_dist=True)  # the same on every process
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / VALIDATION_FILE
            requests = trainer.datamodule.loaded.requests  # type: ignore[attr-defined]
            write_outcomes(path.with_name(REQUESTS_FILE), index, [requests[i].id for i in index], outcomes)
            result.save(path)
            write_report(path.parent)
            print_edits(result)
            print_places(result, path)

    def put_together(
        self, trainer: L.Trainer, module: LGAModule
    ) -> tuple[list[int], list[list[EvalResult]], ValidationResult]:
        """The outcomes of all processes, and what the result file says of them; a collective operation.

        Returns:
            Indices of requests, their outcomes, and what the file says.
        """
        index, records = self.records.compute()
        outcomes = [[EvalResult.of(record) for record in of_request] for of_request in records]
        return index, outcomes, self.result(trainer, module, index, outcomes)

    def result(
        self, trainer: L.Trainer, module: LGAModule, index: Sequence[int], outcomes: Sequence[Sequence[EvalResult]]
    ) -> ValidationResult:
        """What a result file says of some requests.

        Args:
            trainer: For the data.
            module: What has edited.
            index: Positions of the requests in the data.
            outcomes: Outcomes of each request's questions.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        return ValidationResult.build(
            [data.loaded.requests[i] for i in index],
            outcomes,
            model_name=module.model_name,
            data_name=data.name,
            layers=module.edited_layers,
            layer_source=module.layer_source,
            method=module.editor.settings(module.language_model[0]),
            mode=module.mode,
            skipped=data.loaded.skipped,
            evaluation=self.evaluation,
            resamples=self.resamples,
            group_size=data.batch_size if module.mode == "sequential" else None,
            drift=[DriftPoint.of(point.edits, point.change, point.outcomes) for point in module.drift],
            change=module.change,
        )
