"""The same in a training run of transformers' ``Trainer``: layer profiles on the way, edits at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback

from lga_lightning.callbacks.host import HostModel, layer_metrics, say_edited
from lga_lightning.data import load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.editing.in_place import Originals
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.exceptions import SettingError
from lga_lightning.locators import EditForecast, LayerLocator
from lga_lightning.models.loading import load_tokenizer, name_of
from lga_lightning.reports.fit_files import leave_attribution
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.layer_spec import LayerSpec
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments


class LayerAttributionCallback(TrainerCallback):
    """:class:`~lga_lightning.LayerAttribution` for transformers' ``Trainer``.

    It scores the layers before training and after every ``every_n_epochs`` epochs, on all processes of the run, and logs
    ``lga/layer_<number>``, ``lga/golden_layer`` and ``lga/confidence`` wherever the trainer reports to. At the end it leaves
    ``attribution.json``, ``layers.png`` and ``report.html`` in the trainer's ``output_dir``.

    Args:
        trainer: The trainer, whose log is written to.
        proxies: The requests to score the layers by: a list, or a file or Hub data set; None takes the bundled facts.
        tokenizer: The model's tokenizer; None takes the trainer's ``processing_class``, else the one of the model's name.
        locator: How layers are scored; :class:`~lga_lightning.EditForecast` by default, of R-ROME with C = I, which needs no text.
        batch_size: Proxies a batch.
        every_n_epochs: Epochs between two looks.
        model_name: What to call the model in results; None takes the name it was loaded by.
        verbose: Whether to print the result at the end.

    Attributes:
        result: The latest result.

    Raises:
        SettingError: If a number is below 1.

    Example:
        >>> def watched(trainer):  # a transformers.Trainer
        ...     trainer.add_callback(LayerAttributionCallback(trainer, "facts.jsonl"))
        ...     trainer.train()
    """

    def __init__(
        self,
        trainer: Trainer,
        proxies: str | Path | Sequence[EditRequest] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        locator: LayerLocator | None = None,
        batch_size: int = 8,
        every_n_epochs: int = 1,
        model_name: str | None = None,
        verbose: bool = True,
    ) -> None:
        check_at_least_one(batch_size=batch_size, every_n_epochs=every_n_epochs)
        self.locator = locator or EditForecast(RROME(second_moment="identity"))
        self.batch_size, self.every_n_epochs, self.verbose = batch_size, every_n_epochs, verbose
        self.result: LocatorResult | None = None
        self._trainer = trainer
        self._proxies = load_requests(proxies, split="proxy")
        self._given = tokenizer, model_name
        self._epochs = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the model as it is before training."""
        self._epochs = int(state.epoch or 0)  # of a run that goes on
        self._host = host_model_of(self._trainer, *self._given)
        self._score()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the model as it is by now."""
        self._epochs += 1
        if self._epochs % self.every_n_epochs == 0:
            self._score()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the results."""
        if self.result is not None and state.is_world_process_zero:
            leave_attribution(self.result, Path(args.output_dir), self.verbose)

    def _score(self) -> None:
        args = self._trainer.args
        self.result = self._host.score_layers(
            self.locator, self._proxies, self.batch_size, args.process_index, args.world_size, args.device
        )
        self._trainer.log(layer_metrics(self.result))


class ApplyEditsCallback(TrainerCallback):
    """:class:`~lga_lightning.ApplyEdits` for transformers' ``Trainer``: edits at the end of ``train``, and says how they score.

    ``trainer.save_model()`` writes the edited model; checkpoints that the run has saved hold the unedited one.

    Args:
        trainer: The trainer.
        requests: The facts to edit: a list, or a file or Hub data set; all are edited together.
        tokenizer: The model's tokenizer; None takes the trainer's ``processing_class``, else the one of the model's name.
        layer: The block to edit: a number, several, ``all``, ``default``, the path of an attribution.json, or ``golden``: what a
            :class:`LayerAttributionCallback` that was added before has found, else what is in ``output_dir``.
        editor: How facts are edited; R-ROME by default.
        batch_size: Requests that are worked on at once.
        model_name: What to call the model in results; None takes the name it was loaded by.
        evaluation: What is measured of the edits.
        verbose: Whether to print how they score.

    Attributes:
        delta: The edit, once it is made.
        originals: What undoes it: ``callback.originals.restore_()``.
        result: How it scores.

    Raises:
        SettingError: If ``batch_size`` is below 1.
        LayerError: If ``layer`` can mean nothing.

    Example:
        >>> def edited(trainer):  # a transformers.Trainer
        ...     trainer.add_callback(ApplyEditsCallback(trainer, "my_edits.jsonl", layer=5))
        ...     trainer.train()
    """

    def __init__(
        self,
        trainer: Trainer,
        requests: str | Path | Sequence[EditRequest],
        tokenizer: PreTrainedTokenizerBase | None = None,
        layer: int | str | list[int] = "golden",
        editor: EditMethod | None = None,
        batch_size: int = 8,
        model_name: str | None = None,
        evaluation: EvaluationConfig | None = None,
        verbose: bool = True,
    ) -> None:
        check_at_least_one(batch_size=batch_size)
        self.layer, self.editor, self.batch_size = LayerSpec.parse(layer), editor or RROME(), batch_size
        self.evaluation, self.verbose = evaluation or EvaluationConfig(), verbose
        self.delta: WeightDelta | None = None
        self.originals: Originals | None = None
        self.result: ValidationResult | None = None
        self._trainer = trainer
        self._facts = load_requests(requests, strict=True, split="test")
        self._given = tokenizer, model_name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find model and tokenizer, and see whether the facts can be edited, before anything is trained."""
        self._host = host_model_of(self._trainer, *self._given)
        self._host.check_edits(self.editor, self._facts, self.evaluation)
        self._host.check_layer(self.editor, self.layer, Path(args.output_dir), bool(self._attributions()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Edit."""
        found = [callback.result for callback in self._attributions()]
        layer = self._host.find_layer(self.layer, found, Path(args.output_dir))
        self.delta, self.result = self._host.edit(self.editor, layer, self._facts, self.batch_size, self.evaluation)
        self.originals = self.delta.merge_(self._host.llm)
        if self.verbose and state.is_world_process_zero:
            say_edited(self.result)

    def _attributions(self) -> list[LayerAttributionCallback]:
        others = self._trainer.callback_handler.callbacks
        return [callback for callback in others if isinstance(callback, LayerAttributionCallback)]


def host_model_of(trainer: Trainer, tokenizer: PreTrainedTokenizerBase | None, name: str | None) -> HostModel:
    """The model of a trainer, its tokenizer, and what to call it in results.

    Args:
        trainer: The trainer.
        tokenizer: The tokenizer; None takes the trainer's own, else the one of the model's name.
        name: What to call the model; None takes the name it was loaded by.

    Raises:
        SettingError: If no tokenizer can be found.
    """
    llm = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    tokenizer = tokenizer or trainer.processing_class
    if tokenizer is None:
        if not llm.config.name_or_path:
            raise SettingError(
                "The trainer has no tokenizer, and its model was not loaded by a name. Give one: Trainer(processing_class=tokenizer), or "
                "`tokenizer` of the callback."
            )
        tokenizer = load_tokenizer(llm.config.name_or_path)
    return HostModel(llm, tokenizer, name or name_of(llm))
