"""Accumulates layer scores over batches and devices, and picks the golden layer."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lga_lightning.callbacks.host import language_model_of
from lga_lightning.data import RequestBatches, load_requests
from lga_lightning.data.loading import FACTS, LoadedRequests
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators import LayerLocator, ValueGradient
from lga_lightning.locators.score_requests import score_requests
from lga_lightning.metrics import LayerScores
from lga_lightning.models.loading import load_tokenizer
from lga_lightning.modules.lga import LGAModule
from lga_lightning.reports.figures import draw_layers
from lga_lightning.reports.heatmap import HEAT_MAP_FILE, draw_heat_map
from lga_lightning.reports.html import write_report
from lga_lightning.reports.terminal import print_attribution
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lga_lightning.modules.datamodule import EditDataModule

CHECKPOINT_FILE = "attribution.ckpt"
PICTURE_FILE = "layers.png"
FEWEST_TO_STOP = 32  # requests: the bootstrap of a handful is sure of anything
FINGERPRINT = "lga_scores_of"


class LayerAttribution(L.Callback):
    """Scores the layers of a language model over a proxy set, on all devices of the run, and picks the golden one.

    With :class:`LGAModule` it collects what the module's ``fit`` finds out. On the way it leaves a checkpoint of the scores
    alone, ``attribution.ckpt``, from which ``ckpt_path`` resumes: with any number of processes, in batches of any size, no
    request twice and none lost.

    In a training run of yours, give it ``proxies`` and say where in your module the language model is. It then scores the
    layers before training and after every ``every_n_epochs`` epochs, and logs the scores as ``lga/layer_<number>`` and the
    layer as ``lga/golden_layer``. Your model's hooks, modes, gradients and random state stay as they are.

    At the end both leave ``attribution.json``, ``layers.png`` and ``report.html`` in ``default_root_dir``, and ``heat_map.png`` where the
    locator draws one.

    Args:
        checkpoint_every: Batches between two checkpoints (:class:`LGAModule` only). One is also written after the first
            batch and, on a single process, on Ctrl-C.
        proxies: A file or Hub data set of proxy requests, for a module of yours; ``""`` takes the bundled facts.
        model: Where your module keeps the language model, as in ``"net.llm"``.
        tokenizer: Name of its tokenizer; None takes the model's ``config.name_or_path``.
        locator: How layers are scored, for a module of yours; ValueGradient by default.
        format: Its format; ``auto`` recognises it.
        limit: Use the first so many proxies.
        batch_size: Proxies a batch.
        every_n_epochs: How often to score the layers of a module of yours.
        stop_at_confidence: End ``fit`` when, at two looks in a row, this share of bootstrap resamples chooses the same layer
            (0.95, say), and at least 32 requests count. None scores all requests (:class:`LGAModule` only).
        verbose: Print the result. False where another program (``lga compare``) does, and resumes by itself.

    Attributes:
        attribution: The latest result.
        seconds: How long the scores of :class:`LGAModule` took, with what the locator prepared for them.

    Example:
        >>> from lga_lightning.callbacks import LayerAttribution
        >>> callback = LayerAttribution(proxies="facts.jsonl", model="net.llm")  # Trainer(callbacks=[callback])
    """

    def __init__(
        self,
        checkpoint_every: int = 10,
        proxies: str | None = None,
        model: str = "llm",
        tokenizer: str | None = None,
        locator: LayerLocator | None = None,
        format: str = "auto",
        limit: int | None = None,
        batch_size: int = 8,
        every_n_epochs: int = 1,
        stop_at_confidence: float | None = None,
        verbose: bool = True,
    ) -> None:
        for name, number in (
            ("checkpoint_every", checkpoint_every),
            ("batch_size", batch_size),
            ("every_n_epochs", every_n_epochs),
        ):
            if number < 1:
                raise SettingError(f"`{name}` must be at least 1, got {number}.")
        if stop_at_confidence is not None and not 0 < stop_at_confidence <= 1:
            raise SettingError(f"`stop_at_confidence` must be above 0 and at most 1, got {stop_at_confidence}.")
        self.checkpoint_every = checkpoint_every
        self.proxies = proxies
        self.model = model
        self.tokenizer = tokenizer
        self.locator = locator or ValueGradient()
        self.format = format
        self.limit = limit
        self.batch_size = batch_size
        self.every_n_epochs = every_n_epochs
        self.stop_at_confidence = stop_at_confidence
        self.verbose = verbose
        self.scores = LayerScores()
        self.attribution: LocatorResult | None = None
        self.seconds = 0.0
        self._since = 0.0
        self._loaded = LoadedRequests([])
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._next_look = 1
        self._sure_of: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the proxies, and refuse a module in which there is nothing to score."""
        if isinstance(pl_module, LGAModule):
            self.locator = pl_module.locator
        elif self.proxies is None:
            raise DataError(
                f"LayerAttribution has nothing to score in a {type(pl_module).__name__}. Say with `proxies` which requests to "
                "score its layers by, and with `model` where the language model is."
            )
        elif stage == "fit":
            self._loaded = load_requests(self.proxies or None, self.format, self.limit, split="proxy")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score a module of the user's as it is before training."""
        self.scores.to(pl_module.device)
        self._since = time.perf_counter()
        if not isinstance(pl_module, LGAModule):
            self._profile(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score a module of the user's as it is by now."""
        if not isinstance(pl_module, LGAModule) and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._profile(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the scores of a batch of :class:`LGAModule`."""
        if isinstance(pl_module, LGAModule):
            self.scores.update(**outputs)
            self.seconds += time.perf_counter() - self._since
            self._look(trainer, pl_module, batch_idx + 1)
            if batch_idx == 0 or (batch_idx + 1) % self.checkpoint_every == 0:
                _save(trainer)
            self._since = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the layer and leave the results."""
        root = Path(trainer.default_root_dir)
        if isinstance(pl_module, LGAModule):
            data = trainer.datamodule  # type: ignore[attr-defined]
            llm, _ = pl_module.language_model
            self.attribution = LocatorResult.from_scores(
                self.locator,
                llm,
                *self.scores.compute(),
                model_name=pl_module.model_name,
                data_name=data.name,
                requests=data.loaded.requests,
                skipped=data.loaded.skipped,
                seconds=self.seconds or None,
                stop_at_confidence=self.stop_at_confidence,
                stopped=trainer.should_stop,
            )
            _save(trainer)
        if self.attribution is not None and trainer.is_global_zero:
            self.attribution.save(root / ATTRIBUTION_FILE)
            draw_layers(self.attribution, root / PICTURE_FILE)
            if self.attribution.has_heat_map:
                draw_heat_map(self.attribution, root / HEAT_MAP_FILE)
            write_report(root)
            if self.verbose:
                others = [CHECKPOINT_FILE] if isinstance(pl_module, LGAModule) else []
                print_attribution(self.attribution, root, others=others)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave a checkpoint when the user interrupts a run.

        With several processes there is none to put together, since each stops where it is: the last regular one stays.
        """
        if not isinstance(exception, KeyboardInterrupt) or not isinstance(pl_module, LGAModule):
            return
        if trainer.world_size == 1 and self.scores.index:
            _save(trainer)
        path = Path(trainer.default_root_dir) / CHECKPOINT_FILE
        if path.exists():
            option = f" and --ckpt_path {path}" if self.verbose else ""
            rank_zero_warn(f"Interrupted. Go on with the same command{option}")

    def state_dict(self) -> dict[str, Any]:
        """All scores so far, of all processes (every process calls this), and what they are scores of."""
        return {"scores": self.scores.snapshot(), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the scores of a checkpoint."""
        self.scores.restore(state_dict["scores"])
        self.seconds = state_dict.get("seconds", 0.0)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what the scores are scores of."""
        if isinstance(pl_module, LGAModule):
            checkpoint[FINGERPRINT] = fingerprint(pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of something else; tell the data module what is done."""
        if not isinstance(pl_module, LGAModule):
            return
        check_fingerprint(checkpoint, pl_module, trainer.datamodule)  # type: ignore[attr-defined]
        scores = checkpoint["callbacks"][self.state_key]["scores"]
        trainer.datamodule.done = frozenset(scores["index"].tolist()) if scores else ()  # type: ignore[attr-defined]

    def _profile(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the layers of a module of the user's, and log them."""
        llm, name = language_model_of(pl_module, self.model, self.tokenizer)
        self._tokenizer = self._tokenizer or load_tokenizer(name)
        self.locator.prepare(llm, self._tokenizer, self._loaded.requests)
        scores = LayerScores().to(pl_module.device)
        for batch in RequestBatches(self._loaded.requests, self.batch_size, trainer.global_rank, trainer.world_size):
            rows = score_requests(self.locator, llm, self._tokenizer, batch)
            scores.update(**{column: tensor.to(pl_module.device) for column, tensor in rows.items()})
        self.scores = scores
        self.attribution = LocatorResult.from_scores(
            self.locator,
            llm,
            *self.scores.compute(),
            model_name=name,
            data_name=self.proxies or FACTS,
            requests=self._loaded.requests,
            skipped=self._loaded.skipped,
        )
        metrics = {f"lga/layer_{layer}": score for layer, score in enumerate(self.attribution.choice.scores)}
        metrics["lga/golden_layer"] = self.attribution.choice.golden_layer
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _look(self, trainer: L.Trainer, pl_module: LGAModule, batches: int) -> None:
        """Show the choice so far, and end the run when it is settled; a collective operation, at the same batches everywhere.

        Looks become rarer as requests add up, so that their cost stays small beside that of the scores.
        """
        if batches < self._next_look:
            return
        self._next_look = max(batches + 1, math.ceil(1.1 * batches))
        _, values, status = self.scores.compute()
        counted = values[status == 0, 0].cpu()
        if not len(counted):
            return
        choice = self.locator.choose(counted, resamples=1000 if self.stop_at_confidence else 200)
        progress = {"layer": float(choice.golden_layer), "confidence": choice.confidence}
        pl_module.log_dict(progress, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
        if self.stop_at_confidence is None:
            return
        sure = choice.confidence >= self.stop_at_confidence and len(counted) >= FEWEST_TO_STOP
        if sure and self._sure_of == choice.golden_layer:
            trainer.should_stop = True  # every process has seen the same scores
        self._sure_of = choice.golden_layer if sure else None


def _save(trainer: L.Trainer) -> None:
    """Write the checkpoint of the scores; a collective operation."""
    trainer.save_checkpoint(Path(trainer.default_root_dir) / CHECKPOINT_FILE, weights_only=False)


def check_fingerprint(checkpoint: dict[str, Any], module: LGAModule, data: EditDataModule) -> None:
    """Refuse the checkpoint of something else.

    Raises:
        DataError: Says what differs.
    """
    made_with, wanted = checkpoint.get(FINGERPRINT, {}), fingerprint(module, data)
    differ = [name for name in wanted if made_with.get(name) != wanted[name]]
    if differ:
        raise DataError(
            "The checkpoint belongs to another run: "
            + "; ".join(f"its {name} is {made_with.get(name)!r}, not {wanted[name]!r}" for name in differ)
            + ". Resume with the settings it was made with, or start anew: without --ckpt_path, or in another folder."
        )


def fingerprint(module: LGAModule, data: EditDataModule) -> dict[str, str]:
    """What a checkpoint's scores depend on."""
    return {
        "model": module.model_name,
        "dtype": str(module.language_model[0].dtype),
        "only_known": str(module.only_known),
        "locator": type(module.locator).__name__,
        **{name: str(setting) for name, setting in module.locator.settings(module.language_model[0]).items()},
        "requests": data.fingerprint,
    }
