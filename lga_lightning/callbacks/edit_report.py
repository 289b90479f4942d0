"""Writes the results of edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from lga_lightning.callbacks.edit_collector import EditCollector
from lga_lightning.reports.drift_figure import DRIFT_FILE, draw_drift
from lga_lightning.reports.facts import print_facts
from lga_lightning.reports.html import write_report
from lga_lightning.reports.terminal import print_edits, print_places
from lga_lightning.results.validation import REQUESTS_FILE, VALIDATION_FILE, write_results


class EditReport(EditCollector):
    """In ``validate``, writes the results of the edits of :class:`~lga_lightning.LGAModule` into ``default_root_dir``.

    ``validation.json`` holds scores before and after, in the mean with intervals and by request; ``requests.parquet`` every
    prompt with what the model said; ``drift.png`` what became of early facts, where edits are made one after the other;
    ``report.html`` shows all of it, with the attribution where the folder has one. The means are
    also logged, as ``rewrite/before``, ``rewrite/after``, ``generated/rewrite/after``, ..., so that ``trainer.validate``
    returns them. LGAModule adds one to a trainer that has none. Takes the arguments of :class:`EditCollector`.
    """

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self.begin(pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the results of a batch."""
        self.add_results(outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the results of all processes together, log their means and write the files; nothing while fitting."""
        if trainer.state.fn == "fit":
            return
        index, requests, results = self.gather_results(pl_module)
        self.result = self.build_result(pl_module, requests, results)
        pl_module.log_dict(self.result.means(), sync_dist=True)  # the same on every process
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / VALIDATION_FILE
            ids, metrics = [request.id for request in requests], pl_module.evaluation.metrics
            write_results(path.with_name(REQUESTS_FILE), index, ids, results, metrics)
            self.result.save(path)
            if self.result.mode == "sequential":
                draw_drift(self.result, path.with_name(DRIFT_FILE))
            write_report(path.parent)
            print_edits(self.result)
            print_facts(results)
            print_places(self.result, path)
            if pl_module.run_state is not None:
                pl_module.run_state.remove()
