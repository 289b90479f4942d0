"""Watches the layers of a language model in a training run of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L

from lga_lightning.callbacks.host import language_model_of, layer_metrics
from lga_lightning.callbacks.shares import share_of
from lga_lightning.data import load_requests
from lga_lightning.data.loading import LoadedRequests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME
from lga_lightning.locators import EditForecast, LayerLocator
from lga_lightning.reports.fit_files import leave_attribution
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LayerAttribution(L.Callback):
    """Scores the layers of a language model as it trains, on all devices of the run, and picks the golden one.

    It scores before training and after every ``every_n_epochs`` epochs, and logs the scores as ``lga/layer_<number>``, the
    layer as ``lga/golden_layer`` and its bootstrap confidence as ``lga/confidence``: to the run's loggers, and after an
    epoch to ``trainer.callback_metrics``, where ``ModelCheckpoint`` and ``EarlyStopping`` find them. Your model's hooks,
    modes, gradients and random state stay as they are. At the end it leaves ``attribution.json``, ``layers.png`` and
    ``report.html`` in ``default_root_dir``, and ``heat_map.png`` where the locator draws one.

    Args:
        proxies: The requests to score the layers by: a list, or a file or Hub data set; None takes the bundled facts.
        model: Where your module keeps the language model, as in ``"net.llm"``.
        tokenizer: Its tokenizer, or the name to load it by; None takes the model's ``config.name_or_path``.
        locator: How layers are scored; :class:`~lga_lightning.EditForecast` by default, of R-ROME with C = I, which needs no text.
        model_name: What to call the model in results, one that was built from a config, say; None takes the name it was loaded by.
        format: Format of a file of proxies; ``auto`` recognises it.
        limit: Number of proxies to use, the first ones of a file.
        batch_size: Proxies a batch.
        every_n_epochs: Epochs between two looks.
        verbose: Whether to print the result at the end.

    Attributes:
        result: The latest result.

    Raises:
        SettingError: If a number is below 1.

    Example:
        >>> from lga_lightning.callbacks import LayerAttribution
        >>> callback = LayerAttribution(proxies="facts.jsonl", model="net.llm")  # Trainer(callbacks=[callback])
    """

    def __init__(
        self,
        proxies: str | Path | Sequence[EditRequest] | None = None,
        model: str = "llm",
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        locator: LayerLocator | None = None,
        format: str = "auto",
        limit: int | None = None,
        batch_size: int = 8,
        every_n_epochs: int = 1,
        verbose: bool = True,
        model_name: str | None = None,
    ) -> None:
        check_at_least_one(batch_size=batch_size, every_n_epochs=every_n_epochs)
        self.proxies = proxies
        self.model = model
        self.tokenizer = tokenizer
        self.model_name = model_name
        self.locator = locator or EditForecast(RROME(second_moment="identity"))
        self.format = format
        self.limit = limit
        self.batch_size = batch_size
        self.every_n_epochs = every_n_epochs
        self.verbose = verbose
        self.result: LocatorResult | None = None
        self._loaded = LoadedRequests([])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the proxies: what is wrong with them should not come out when the model is loaded."""
        if stage == "fit":
            self._loaded = load_requests(self.proxies, self.format, self.limit, split="proxy")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the model, which your module may make as late as in ``configure_model``, but before it is trained."""
        self._host = language_model_of(pl_module, self.model, self.tokenizer, self.model_name)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the model as it is before training."""
        self._score(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the model as it is by now."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._score(trainer, pl_module)
        # in every epoch, so that whoever monitors a metric finds it; the same on every process
        pl_module.log_dict(layer_metrics(self.result), logger=False, on_epoch=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the results."""
        if self.result is not None and trainer.is_global_zero:
            leave_attribution(self.result, Path(trainer.default_root_dir), self.verbose)

    def _score(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the layers and log them; a collective operation."""
        self.result = self._host.score_layers(
            self.locator, self._loaded, self.batch_size, *share_of(trainer), pl_module.device
        )
        for logger in trainer.loggers:
            logger.log_metrics(layer_metrics(self.result), step=trainer.global_step)
