"""Edits facts in a module of your own when its training is over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L

from lga_lightning.callbacks.host import language_model_of, say_edited
from lga_lightning.callbacks.layer_attribution import LayerAttribution
from lga_lightning.data import load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.editing.in_place import Originals
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.results.layer_spec import LayerSpec
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ApplyEdits(L.Callback):
    """Writes edits into the language model of a module of yours at the end of ``fit``, and says how they score.

    Checkpoints that the run has saved by then hold the unedited weights.

    Args:
        requests: The facts to edit: a list, or a file or Hub data set; all are edited together.
        model: Where your module keeps the language model, as in ``"net.llm"``.
        tokenizer: Its tokenizer, or the name to load it by; None takes the model's ``config.name_or_path``.
        layer: The block to edit: a number, several, ``all``, ``default``, the path of an attribution.json, or ``golden``: what a
            :class:`LayerAttribution` in the same run has found, else what is in ``default_root_dir``.
        editor: How facts are edited; R-ROME by default.
        format: Format of a file of requests; ``auto`` recognises it.
        batch_size: Requests that are worked on at once.
        model_name: What to call the model in results, one that was built from a config, say; None takes the name it was loaded by.
        evaluation: What is measured of the edits.
        verbose: Whether to print how they score.

    Attributes:
        delta: The edit, once it is made: save it with :meth:`WeightDelta.save_pretrained`.
        originals: What undoes it: ``callback.originals.restore_()``.
        result: How it scores.

    Raises:
        SettingError: If ``batch_size`` is below 1.
        LayerError: If ``layer`` can mean nothing.

    Example:
        >>> from lga_lightning.callbacks import ApplyEdits
        >>> callback = ApplyEdits("my_edits.jsonl", model="net.llm", layer=5)  # Trainer(callbacks=[callback])
    """

    def __init__(
        self,
        requests: str | Path | Sequence[EditRequest],
        model: str = "llm",
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        layer: int | str | list[int] = "golden",
        editor: EditMethod | None = None,
        format: str = "auto",
        batch_size: int = 8,
        model_name: str | None = None,
        evaluation: EvaluationConfig | None = None,
        verbose: bool = True,
    ) -> None:
        check_at_least_one(batch_size=batch_size)
        self.requests, self.model, self.tokenizer, self.layer = requests, model, tokenizer, LayerSpec.parse(layer)
        self.editor, self.format, self.batch_size = editor or RROME(), format, batch_size
        self.model_name, self.evaluation, self.verbose = model_name, evaluation or EvaluationConfig(), verbose
        self.result: ValidationResult | None = None
        self.delta: WeightDelta | None = None
        self.originals: Originals | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the requests: what is wrong with them should not come out when the model is loaded."""
        if stage == "fit":
            self._loaded = load_requests(self.requests, self.format, strict=True, split="test")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the model, which your module may make as late as in ``configure_model``, but before it is trained."""
        self._host = language_model_of(pl_module, self.model, self.tokenizer, self.model_name)
        self._host.check_edits(self.editor, self._loaded, self.evaluation)
        scored = bool(self._attributions(trainer))
        self._host.check_layer(self.editor, self.layer, Path(trainer.default_root_dir), scored)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Edit, on the device that the module was trained on: most strategies have moved it to main memory by now, where it is merged."""
        layer, now = self._find(trainer), self._host.llm.device
        pl_module.to(trainer.strategy.root_device)
        try:
            self.delta, self.result = self._host.edit(
                self.editor, layer, self._loaded, self.batch_size, self.evaluation
            )
        finally:
            pl_module.to(now)
        self.originals = self.delta.merge_(self._host.llm)
        if self.verbose and trainer.is_global_zero:
            say_edited(self.result)

    def _attributions(self, trainer: L.Trainer) -> list[LayerAttribution]:
        return [callback for callback in trainer.callbacks if isinstance(callback, LayerAttribution)]

    def _find(self, trainer: L.Trainer) -> LayerSpec:
        found = [callback.result for callback in self._attributions(trainer)]
        return self._host.find_layer(self.layer, found, Path(trainer.default_root_dir))
