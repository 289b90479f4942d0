"""Collects the scores of ``LGAModule``'s ``fit`` over batches and devices, and picks the golden layer."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lga_lightning.callbacks.checkpoint import CHECKPOINT_FILE, FINGERPRINT, another_checkpoint, check_checkpoint
from lga_lightning.callbacks.host import check_own_module
from lga_lightning.callbacks.layer_race import RACE_FILE, edits_before, edits_fingerprint, race_layers
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.functional import race_settings, raced
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.race_runner import EditRace
from lga_lightning.metrics import LayerScores
from lga_lightning.reports.fit_files import leave_attribution
from lga_lightning.results.atlas import ATLAS_FILE, AtlasPage, check_measured
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.evidence import LocatorEvidence
from lga_lightning.utils.io import disk_errors
from lga_lightning.utils.settings import check_at_least_one

FEWEST_TO_STOP = 32  # requests: the bootstrap of a handful is sure of anything


class ScoreCollector(L.Callback):
    """Collects what :class:`~lga_lightning.LGAModule` finds out in ``fit``, and leaves the golden layer.

    On the way it leaves a checkpoint of the scores alone, ``attribution.ckpt``, from which ``ckpt_path`` resumes: with any
    number of processes, in batches of any size, no request counted twice and none lost. At the end it leaves
    ``attribution.json``, ``layers.png`` and ``report.html`` in ``default_root_dir``, and ``heat_map.png`` where the locator
    draws one. LGAModule adds one to a trainer that has none.

    With ``verify``, real edits have the last word: a race of edits among the layers that the scores name. What was edited is
    left in ``race.safetensors`` after each round, and a run in the same folder goes on from there.

    Args:
        checkpoint_every: Batches between two checkpoints. One is also written after the first batch and, on a single process,
            on Ctrl-C.
        stop_at_confidence: Share of bootstrap resamples (0.95, say): ``fit`` ends when, at two looks in a row, as many choose
            the same layer, and at least 32 requests count. None scores all requests.
        verbose: Whether to print the result. False where another program (``lga compare``) does, and resumes by itself.
        verify: Whether edits are to verify the layer, and when their race ends; True for its usual settings.
        atlas: Whether to leave ``atlas_entry.json`` as well: what was found, to be contributed to the atlas (``docs/atlas.md``).

    Attributes:
        result: The golden layer, once ``fit`` is over.
        race: The race of edits, once it has begun.
        scores: Evidence by request, so far.
        collected: Index [N], evidence [N, C, L] and status [N] of all processes' requests, once ``fit`` is over.
        seconds: Time that the scores took, with what the locator prepared for them.

    Raises:
        SettingError: If a setting is out of its range.
    """

    resumes = ("The checkpoint", "without --ckpt_path, or in another folder")
    """What a run goes on from, and how it is started anew, where that is refused."""

    def __init__(
        self,
        checkpoint_every: int = 10,
        stop_at_confidence: float | None = None,
        verbose: bool = True,
        verify: RaceSettings | bool | None = None,
        atlas: bool = False,
    ) -> None:
        check_at_least_one(checkpoint_every=checkpoint_every)
        if stop_at_confidence is not None and not 0 < stop_at_confidence <= 1:
            raise SettingError(f"`stop_at_confidence` must be above 0 and at most 1, got {stop_at_confidence}.")
        self.checkpoint_every = checkpoint_every
        self.stop_at_confidence = stop_at_confidence
        self.verbose = verbose
        self.verify = race_settings(verify)
        self.atlas = atlas
        self._begin()

    def _begin(self) -> None:
        self.scores = LayerScores()
        self.result: LocatorResult | None = None
        self.race: EditRace | None = None
        self.collected: tuple[Tensor, ...] = ()
        self.seconds = 0.0
        self._since = 0.0
        self._next_look = 1
        self._sure_of: int | None = None
        self._stopped = False
        self._resumed_from: dict[str, str] | None = None
        self._edits: LocatorEvidence | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a module in which there is nothing to collect, and forget an earlier run."""
        check_own_module(self, pl_module)
        if stage == "fit":
            self._begin()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to go on from the scores of something else."""
        self.scores.to(pl_module.device)
        self._since = time.perf_counter()
        if self._resumed_from is not None:
            check_fingerprint(self._resumed_from, pl_module.fingerprint(), *self.resumes)
        if self.atlas and self.verify is None:
            check_measured(pl_module.locator, pl_module.editor, pl_module.llm)
        if self.verify is not None:
            pl_module.editor.check_requests(list(filter(pl_module.locator.accepts, pl_module.data.requests)))
            self._edits = edits_before(trainer)
            if self._edits is not None:
                what, anew = f"The race in {RACE_FILE}", "without that file, or in another folder"
                check_fingerprint(self._edits.made_with, edits_fingerprint(pl_module), what, anew)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the scores of a batch."""
        self.scores.update(**outputs)
        self.seconds += time.perf_counter() - self._since
        self._look(trainer, pl_module, batch_idx + 1)
        if batch_idx == 0 or (batch_idx + 1) % self.checkpoint_every == 0:
            _save(trainer)
        self._since = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the layer and leave the results."""
        data = pl_module.data
        self.collected = tuple(column.cpu() for column in self.scores.compute())
        self.result = LocatorResult.from_scores(
            pl_module.locator,
            pl_module.llm,
            *self.collected,
            model_name=pl_module.model_name,
            data_name=data.name,
            requests=data.requests,
            skipped=data.skipped,
            seconds=self.seconds,
            stop_at_confidence=self.stop_at_confidence,
            stopped=self._stopped,
        )
        _save(trainer)
        if self.verify is not None:
            self.race = race_layers(trainer, pl_module, self.verify, self.collected, self._edits, self.verbose)
            self.result = raced(self.result, self.race)
        index, _, status = self.collected
        counted = [data.requests[row] for row in index[status == 0].tolist()]
        llm, tokenizer = pl_module.language_model
        self.result = self.result.with_experts(llm, tokenizer, counted)
        if trainer.is_global_zero:
            root = Path(trainer.default_root_dir)
            files = [CHECKPOINT_FILE] if self.verify is None else [CHECKPOINT_FILE, RACE_FILE]
            if self.atlas:
                AtlasPage.of(self.result, pl_module.editor, pl_module.llm).save(root / ATLAS_FILE)
                files.append(ATLAS_FILE)
            leave_attribution(self.result, root, self.verbose, files)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave a checkpoint when the user interrupts a run.

        With several processes there is none to put together, since each stops where it is: the last regular one stays.
        """
        if not isinstance(exception, KeyboardInterrupt) or not trainer.training:
            return
        if trainer.world_size == 1 and self.scores.index:
            _save(trainer)
        path = Path(trainer.default_root_dir) / CHECKPOINT_FILE
        if path.exists():
            option = f" and --ckpt_path {path}" if self.verbose else ""
            rank_zero_warn(f"Interrupted. Go on with the same command{option}")

    def state_dict(self) -> dict[str, Any]:
        """All scores so far, of all processes; every process calls this."""
        return {"scores": self.scores.snapshot(), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the scores of a checkpoint."""
        self.scores.restore(state_dict["scores"])
        self.seconds = state_dict["seconds"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what the scores are scores of."""
        checkpoint[FINGERPRINT] = pl_module.fingerprint()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what the scores are scores of, and tell the module which are done."""
        path = str(trainer.ckpt_path)
        if FINGERPRINT not in checkpoint:
            raise another_checkpoint(path)
        if Path(path).is_file():
            check_checkpoint(path)
        self._resumed_from = checkpoint[FINGERPRINT]
        scores = checkpoint["callbacks"].get(self.state_key, {}).get("scores")
        pl_module.resume(scores["index"].tolist() if scores else ())

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule, batches: int) -> None:
        """Show the choice so far, and end the run when it is settled; a collective operation, at the same batches everywhere.

        Looks become rarer as requests add up, so that their cost stays small beside that of the scores.
        """
        last = trainer.is_last_batch and trainer.world_size == 1  # the bar then says what the result will
        if batches < self._next_look and not last:
            return
        self._next_look = max(batches + 1, math.ceil(1.1 * batches))
        _, values, status = self.scores.compute()
        counted = values[status == 0, 0].cpu()
        if not len(counted):
            return
        choice = pl_module.locator.choose(counted, resamples=1000 if self.stop_at_confidence or last else 200)
        progress = {"layer": float(choice.golden_layer), "confidence": choice.confidence}
        pl_module.log_dict(progress, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
        if self.stop_at_confidence is None:
            return
        sure = choice.confidence >= self.stop_at_confidence and len(counted) >= FEWEST_TO_STOP
        if sure and self._sure_of == choice.golden_layer:
            trainer.should_stop = self._stopped = True  # every process has seen the same scores
        self._sure_of = choice.golden_layer if sure else None


def _save(trainer: L.Trainer) -> None:
    """Write the checkpoint of the scores; a collective operation.

    Lightning stages a file in the system's folder for such, and moves it over what was there, which a full disk cuts in half.
    """
    path = Path(trainer.default_root_dir) / CHECKPOINT_FILE
    scratch = path.with_name(f".{CHECKPOINT_FILE}.partial")
    try:
        with disk_errors(path):
            trainer.save_checkpoint(scratch, weights_only=False)
            if trainer.is_global_zero:
                scratch.replace(path)
    finally:
        if trainer.is_global_zero:
            scratch.unlink(missing_ok=True)


def check_fingerprint(made_with: dict[str, str], wanted: dict[str, str], what: str, anew: str) -> None:
    """Refuse the scores of something else.

    Args:
        made_with: What the scores were made with, by name of the setting.
        wanted: What this run scores with.
        what: What holds the scores.
        anew: How to start anew.

    Raises:
        DataError: Says what differs.
    """
    differ = [name for name in wanted if made_with.get(name) != wanted[name]]
    if differ:
        raise DataError(
            f"{what} belongs to another run: "
            + "; ".join(f"its {name} is {made_with.get(name)!r}, not {wanted[name]!r}" for name in differ)
            + f". Resume with the settings it was made with, or start anew: {anew}."
        )
