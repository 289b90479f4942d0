"""The whole method as two functions, for a model that you have at hand: no Trainer, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.data.loading import AT_HAND, as_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.locators import EditForecast, LayerLocator
from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.race_runner import EditRace, expected_scores
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.lengths import check_lengths
from lga_lightning.models.loading import name_of
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.layer_spec import LayerSpec
from lga_lightning.results.race import RaceResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def find_golden_layer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest | Mapping[str, Any]],
    locator: LayerLocator | None = None,
    batch_size: int = 8,
    only_known: bool = False,
    editor: EditMethod | None = None,
    verify: RaceSettings | bool = False,
) -> LocatorResult:
    """Score every layer of a model on proxy requests, and pick the golden one.

    Args:
        model: A causal language model with L blocks, on any device; it is left as it was.
        tokenizer: Its fast tokenizer.
        requests: The proxy requests, or dicts with the fields of one; one without an old target takes the model's own answer.
        locator: How layers are scored; EditForecast by default.
        batch_size: Requests a batch.
        only_known: Whether to leave out requests whose old answer the model does not give greedily.
        editor: How facts will be edited, for a locator that asks, and for the race; R-ROME by default.
        verify: Whether real edits have the last word: a race among the likeliest layers, and when it ends.

    Returns:
        The result: ``.golden_layer``, ``.confidence``, and all that led to them.

    Raises:
        DataError: If no request is left to score layers by.
        SettingError: If ``batch_size`` is below 1.
        NonFiniteScoreError: If a score is not finite.
    """
    editor, asked = editor or RROME(), as_requests(requests)
    locator = (locator or EditForecast()).for_editor(editor)
    index, values, status = score_all(locator, model, tokenizer, asked, batch_size, only_known).compute()
    result = LocatorResult.from_scores(
        locator, model, index, values, status, model_name=name_of(model), data_name=AT_HAND, requests=asked
    )
    settings = race_settings(verify)
    if settings is None:
        return result
    counted = [asked[row] for row in index[status == 0].tolist()]
    expected = expected_scores(locator, values[status == 0, 0].cpu())
    race = EditRace(model, tokenizer, counted, editor, expected, settings, batch_size)
    race.run()
    return raced(result, race)


def race_settings(verify: RaceSettings | bool | None) -> RaceSettings | None:
    """The settings of the race that is asked for; None for no race.

    Args:
        verify: The settings, or whether there is a race at all.
    """
    if isinstance(verify, RaceSettings):
        return verify
    return RaceSettings() if verify else None


def raced(result: LocatorResult, run: EditRace) -> LocatorResult:
    """A locator's result with what a race made of it.

    Args:
        result: The result.
        run: The race, once it is over.
    """
    race, standing = run.race, run.race.standing()
    ended = run.ended
    means = run.values.nanmean(0)
    outcome = RaceResult(
        layers=run.editor.window_at(standing.layer),
        layer=standing.layer,
        confidence=standing.confidence,
        tolerance=race.settings.tolerance,
        settled=ended == "settled",
        ended=ended,
        edits=standing.edits,
        seconds=run.seconds,
        requests=len(run.edited),
        edited=standing.edited,
        scores=standing.scores,
        intervals=standing.intervals,
        parts={name: means[number].tolist() for number, name in enumerate(PARTS, start=1)},
        editor=run.editor.settings(run.model),
        settings=asdict(race.settings),
    )
    return replace(result, race=outcome)


def edit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest | Mapping[str, Any]],
    layer: int | str | Sequence[int] | LocatorResult = "default",
    editor: EditMethod | None = None,
    batch_size: int = 8,
) -> WeightDelta:
    """Edit facts, all together.

    Args:
        model: A causal language model, on any device; it is left as it was.
        tokenizer: Its fast tokenizer.
        requests: The facts to edit, as requests or as dicts with their fields (``docs/data.md``).
        layer: The block to edit: what :func:`find_golden_layer` found (a window around it for methods that spread an edit), a
            number, several (``"4-8"``, a list, or ``"all"``), the path of an attribution.json, ``"golden"`` for that in the current
            folder, or ``"default"``: what is published for the model and the method, or a choice by depth.
        editor: How facts are edited; R-ROME by default.
        batch_size: Requests that are worked on at once.

    Returns:
        The edit: ``with delta.attached(model)`` to try it, ``delta.merge_(model)`` to keep it, ``delta.save_pretrained(...)``
        to ship it as a PEFT adapter.

    Raises:
        DataError: If there is no request, two contradict each other, or one is too long for the model.
        SettingError: If ``batch_size`` is below 1.
        LayerError: If the model lacks one of the layers, or the file is missing or of another model.
    """
    editor = editor or RROME()
    if isinstance(layer, LocatorResult):
        spec = LayerSpec.of(layer, "golden layer")
    else:
        spec = LayerSpec.parse(layer).find(Path.cwd(), name_of(model))
    layers, _ = spec.layers_for(editor, model)
    asked = as_requests(requests)
    check_lengths(model, tokenizer, asked)
    return editor.compute(model, tokenizer, asked, layers, batch_size)
