"""The whole method as two functions, for a model that you have at hand: no Trainer, no files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lga_lightning.data.loading import AT_HAND
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.locators import LayerLocator, ValueGradient
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.loading import name_of
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.layer_spec import LayerSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def find_golden_layer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    locator: LayerLocator | None = None,
    batch_size: int = 8,
    only_known: bool = False,
) -> LocatorResult:
    """Score every layer of a model on proxy requests, and pick the golden one.

    Args:
        model: A causal language model with L blocks, on any device; it is left as it was.
        tokenizer: Its fast tokenizer.
        requests: The proxy requests; one without an old target takes the model's own answer.
        locator: How layers are scored; ValueGradient by default.
        batch_size: Requests a batch.
        only_known: Whether to leave out requests whose old answer the model does not give greedily.

    Returns:
        The result: ``.golden_layer``, ``.confidence``, and all that led to them.

    Raises:
        DataError: If no request is left to score layers by.
        SettingError: If ``batch_size`` is below 1.
        NonFiniteScoreError: If a score is not finite.
    """
    locator = locator or ValueGradient()
    scores = score_all(locator, model, tokenizer, requests, batch_size, only_known)
    return LocatorResult.from_scores(
        locator, model, *scores.compute(), model_name=name_of(model), data_name=AT_HAND, requests=requests
    )


def edit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    layer: int | str | Sequence[int] | LocatorResult = "default",
    editor: EditMethod | None = None,
    batch_size: int = 8,
) -> WeightDelta:
    """Edit facts, all together.

    Args:
        model: A causal language model, on any device; it is left as it was.
        tokenizer: Its fast tokenizer.
        requests: The facts to edit.
        layer: The block to edit: what :func:`find_golden_layer` found (a window around it for methods that spread an edit), a
            number, several (``"4-8"``, a list, or ``"all"``), the path of an attribution.json, ``"golden"`` for that in the current
            folder, or ``"default"``: what is published for the model and the method, or a choice by depth.
        editor: How facts are edited; R-ROME by default.
        batch_size: Requests that are worked on at once.

    Returns:
        The edit: ``with delta.attached(model)`` to try it, ``delta.merge_(model)`` to keep it, ``delta.save_pretrained(...)``
        to ship it as a PEFT adapter.

    Raises:
        DataError: If there is no request, or two contradict each other.
        SettingError: If ``batch_size`` is below 1.
        LayerError: If the model lacks one of the layers, or the file is missing or of another model.
    """
    editor = editor or RROME()
    if isinstance(layer, LocatorResult):
        spec = LayerSpec.of(layer, "golden layer")
    else:
        spec = LayerSpec.parse(layer).find(Path.cwd(), name_of(model))
    layers, _ = spec.layers_for(editor, model)
    return editor.compute(model, tokenizer, requests, layers, batch_size)
