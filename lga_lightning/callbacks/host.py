"""What callbacks in a training run of somebody else's share: where the model is, its layers' scores, its edits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from lga_lightning.data.agreement import check_together
from lga_lightning.data.loading import LoadedRequests
from lga_lightning.editing import EditMethod, WeightDelta
from lga_lightning.editing.in_place import check_mergeable
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.lengths import check_asked_lengths
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators import LayerLocator
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.chat import as_asked, asks_in_chat
from lga_lightning.models.loading import load_tokenizer, name_of
from lga_lightning.reports.terminal import print_edits, print_note
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.layer_spec import GOLDEN, LayerSpec
from lga_lightning.results.validation import ValidationResult

if TYPE_CHECKING:
    import lightning as L
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


IN_THE_WEIGHTS = (
    "The edits are in the weights now, and in no checkpoint that the run saved before. `delta.save_pretrained(folder, model)` of this "
    "callback, after `originals.restore_()`, writes them as an adapter."
)


@dataclass(frozen=True)
class HostModel:
    """A language model that somebody else trains.

    Attributes:
        llm: The model.
        tokenizer: Its fast tokenizer.
        name: What to call it in results.
    """

    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    def score_layers(
        self,
        locator: LayerLocator,
        proxies: LoadedRequests,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> LocatorResult:
        """Score the layers as they are by now, and pick the golden one; a collective operation.

        Args:
            locator: How layers are scored.
            proxies: The requests to score them by.
            batch_size: Requests a batch.
            rank: Number of this process.
            world_size: Number of processes, each of which scores its share.
            device: Where the scores are kept; the model's device by default.
        """
        asked = proxies.requests
        scores = score_all(
            locator, self.llm, self.tokenizer, asked, batch_size, rank=rank, world_size=world_size, device=device
        )
        index, values, status = scores.compute()
        result = LocatorResult.from_scores(
            locator,
            self.llm,
            index,
            values,
            status,
            model_name=self.name,
            data_name=proxies.name,
            requests=asked,
            skipped=proxies.skipped,
        )
        return result.with_experts(self.llm, self.tokenizer, [asked[row] for row in index[status == 0].tolist()])

    def check_edits(self, editor: EditMethod, facts: LoadedRequests, evaluation: EvaluationConfig) -> None:
        """Refuse facts that could not be edited, before a training that they would end.

        Args:
            editor: How they will be edited.
            facts: The facts.
            evaluation: What will be asked about them.

        Raises:
            DataError: If two facts contradict each other.
            InvalidRequest: If a text is too long for the model, or the method cannot edit a fact.
            ModelError: If the edit could not be written into the weights.
        """
        check_mergeable(self.llm)
        check_together(facts.requests)
        editor.check_requests(facts.requests)
        check_asked_lengths(self.llm, self.tokenizer, facts.requests, evaluation)

    def check_layer(self, editor: EditMethod, layer: LayerSpec, root: Path, scored: bool) -> None:
        """Refuse a layer that could not be edited, before the training.

        Args:
            editor: How facts will be edited.
            layer: The block to edit, as it was asked for.
            root: Folder of the results.
            scored: Whether layers are scored in this run, so that a file that the layer stands for may come of it.

        Raises:
            LayerError: If the layer means nothing, or the model lacks it.
        """
        layer.check()
        if not (scored and layer.stands_for_a_file):
            layer.find(root, self.name).layers_for(editor, self.llm)

    def find_layer(self, layer: LayerSpec, found: Iterable[LocatorResult | None], root: Path) -> LayerSpec:
        """The block to edit; ``golden`` is what was found in this run, else what is in a folder.

        Args:
            layer: What the user has asked for.
            found: What the callbacks of the run have found, if anything.
            root: Folder of the results.

        Raises:
            LayerError: If there is no such file, or it is of another model.
        """
        result = next(filter(None, found), None)
        if layer.word == GOLDEN and result is not None:
            return LayerSpec.of(result, "this run")
        return layer.find(root, self.name)

    def edit(
        self,
        editor: EditMethod,
        layer: LayerSpec,
        facts: LoadedRequests,
        batch_size: int,
        evaluation: EvaluationConfig,
    ) -> tuple[WeightDelta, ValidationResult]:
        """Edit facts, all together; the model is left as it was.

        Args:
            editor: How facts are edited.
            layer: The block to edit, found.
            facts: The facts.
            batch_size: Requests that are worked on at once.
            evaluation: What is measured.

        Returns:
            The edit, to be merged, and how it scores.
        """
        layers, source = layer.layers_for(editor, self.llm)
        session = EditSession(editor, self.llm, self.tokenizer, layers)
        session.edit(facts.requests, batch_size)
        scored = [facts.requests[place] for place in evaluation.drawn(range(len(facts.requests)))]
        results = evaluate(self.llm, self.tokenizer, scored, [session.delta] * len(scored), evaluation)
        result = ValidationResult.build(
            scored,
            results,
            model_name=self.name,
            data_name=facts.name,
            layers=layers,
            layer_source=source,
            method=editor.settings(self.llm),
            mode="batch",
            skipped=facts.skipped,
            evaluation=evaluation,
            in_chat=asks_in_chat(as_asked(self.llm, self.tokenizer, evaluation.chat)),
            resamples=1000,
            change=session.relative_norms(),
            num_requests=len(facts.requests),
        )
        return session.delta, result


def say_edited(result: ValidationResult) -> None:
    """Print how edits score that are in the weights now.

    Args:
        result: Their scores.
    """
    print_edits(result)
    print_note(IN_THE_WEIGHTS)


def layer_metrics(result: LocatorResult | None) -> dict[str, float]:
    """A result as the metrics that a run logs: ``lga/layer_<number>``, ``lga/golden_layer`` and ``lga/confidence``.

    Args:
        result: The result; None before there is one.
    """
    if result is None:
        return {}
    choice = result.choice
    scores = {f"lga/layer_{layer}": score for layer, score in enumerate(choice.scores)}
    return {**scores, "lga/golden_layer": float(choice.golden_layer), "lga/confidence": choice.confidence}


def language_model_of(
    module: L.LightningModule, path: str, tokenizer: str | PreTrainedTokenizerBase | None, name: str | None = None
) -> HostModel:
    """The language model in a module, its tokenizer, and what to call it in results.

    Args:
        module: The module.
        path: Where the model is, as in ``"net.llm"``.
        tokenizer: The tokenizer, or the name to load it by; None takes the model's ``config.name_or_path``.
        name: What to call the model; None takes the name it was loaded by.

    Raises:
        DataError: If there is no model of transformers at that path, or no tokenizer can be found for what is there.
    """
    try:
        llm = attrgetter(path)(module)
    except AttributeError as error:
        raise DataError(
            f"The language model was looked for at `model={path!r}`, but {type(module).__name__} has no such attribute "
            f"({error}). Say where your module keeps it, as in `model='net.llm'`."
        ) from error
    llm = getattr(llm, "_orig_mod", llm)  # of `torch.compile(model)`: the same weights, in modules that can be hooked
    if not hasattr(getattr(llm, "config", None), "name_or_path"):
        raise DataError(
            f"The language model was looked for at `model={path!r}`, where {type(module).__name__} has a {type(llm).__name__}, "
            "which is no model of transformers when `fit` starts. Say where your module keeps it, as in `model='net.llm'`."
        )
    if tokenizer is None and not llm.config.name_or_path:
        raise DataError(
            f"The language model at `model={path!r}` was not loaded by a name, so its tokenizer cannot be either. Give the "
            "tokenizer, or the name to load it by, as `tokenizer`."
        )
    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer or llm.config.name_or_path)
    return HostModel(llm, tokenizer, name or name_of(llm))


def check_own_module(callback: L.Callback, module: L.LightningModule) -> None:
    """Refuse a module in which there is nothing to collect.

    Raises:
        SettingError: If the module is no :class:`~lga_lightning.LGAModule`.
    """
    if not hasattr(type(module), "finish_edits"):  # LGAModule, whose room is above this one
        raise SettingError(
            f"{type(callback).__name__} collects what LGAModule finds out, and {type(module).__name__} is none. In a module of "
            "your own, LayerAttribution(proxies=..., model=...) scores the layers and ApplyEdits(requests=..., model=...) edits."
        )
