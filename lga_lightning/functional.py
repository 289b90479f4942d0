"""The whole method as two functions, for a model that you have at hand: no Trainer, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.data.agreement import check_together
from lga_lightning.data.loading import AT_HAND, BUNDLED, FACTS, as_requests, load_requests, name_of_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.exceptions import DataError
from lga_lightning.locators import EditForecast, LayerLocator
from lga_lightning.locators.base import first_known
from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.race_runner import EditRace, expected_scores
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.lengths import check_lengths
from lga_lightning.models.loading import name_of
from lga_lightning.reports.terminal import print_note
from lga_lightning.reports.wording import counted
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.known_layers import KnownLayer
from lga_lightning.results.layer_spec import LayerSpec, LayerWord
from lga_lightning.results.race import RaceResult
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO = "auto"
PROXIES = 48
"""Bundled facts by which a layer is found, at most."""
FEWEST_PROXIES = 8
"""Bundled facts that a model must know for that."""
SHORT_RACE = RaceSettings(budget=24)


def find_golden_layer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest | Mapping[str, Any]],
    locator: LayerLocator | None = None,
    batch_size: int = 8,
    only_known: bool = False,
    editor: EditMethod | None = None,
    verify: RaceSettings | bool = False,
    show: bool = False,
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
        show: Whether to show progress, where there is a terminal.

    Returns:
        The result: ``.golden_layer``, ``.confidence``, and all that led to them.

    Raises:
        DataError: If no request is left to score layers by.
        SettingError: If ``batch_size`` is below 1.
        NonFiniteScoreError: If a score is not finite.
    """
    editor, asked = editor or RROME(), as_requests(requests)
    locator = (locator or EditForecast()).for_editor(editor)
    index, values, status = score_all(locator, model, tokenizer, asked, batch_size, only_known, show=show).compute()
    result = LocatorResult.from_scores(
        locator, model, index, values, status, model_name=name_of(model), data_name=AT_HAND, requests=asked
    )
    counted = [asked[row] for row in index[status == 0].tolist()]
    settings = race_settings(verify)
    if settings is None:
        return result.with_experts(model, tokenizer, counted)
    expected = expected_scores(locator, values[status == 0, 0].cpu())
    race = EditRace(model, tokenizer, counted, editor, expected, settings, batch_size)
    race.run(show=show)
    return raced(result, race).with_experts(model, tokenizer, counted)


def known_golden_layer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    editor: EditMethod | None = None,
    proxies: str | Path | Sequence[EditRequest | Mapping[str, Any]] | None = None,
    edited: Sequence[EditRequest] = (),
    race: RaceSettings | None = SHORT_RACE,
    batch_size: int = 8,
    show: bool = False,
) -> tuple[LocatorResult, bool]:
    """The golden layer of a model for a method: from the user's cache, else found by a forecast and a short race, and kept there.

    Args:
        model: A causal language model, on any device; it is left as it was.
        tokenizer: Its fast tokenizer.
        editor: How facts will be edited; R-ROME by default.
        proxies: Facts to find it by: a file, a data set of the Hub, or facts at hand. None takes the first 48 of the bundled
            proxies that the model knows.
        edited: The facts that will be edited. Proxies about the same subjects are left out where the layer is found now.
        race: Settings of the race; None for the forecast alone.
        batch_size: Requests a batch.
        show: Whether to show progress, where there is a terminal.

    Returns:
        The result, and whether it was known before.

    Raises:
        DataError: If there is no proxy, or the model knows too few of the bundled ones.
    """
    editor = editor or RROME()
    if proxies is not None and not isinstance(proxies, str | Path):
        proxies = as_requests(proxies)
    key = KnownLayer.of(model, tokenizer, editor, BUNDLED if proxies is None else proxies, race)
    known = key.load()
    if known is not None:
        return known, True
    subjects = {request.about.casefold() for request in edited}
    facts = [fact for fact in load_requests(proxies, split="proxy").requests if fact.about.casefold() not in subjects]
    name = name_of_requests(proxies)
    if not facts:
        raise DataError(
            f"Every fact of {name} is about a subject that is to be edited, so none is left to find the golden layer by. Give others "
            "(--proxies FILE; in Python proxies=...), or the layer: a number, or `default`."
        )
    if proxies is None:
        facts, name = first_known(model, tokenizer, facts, PROXIES), f"{FACTS} that the model knows"
        if len(facts) < FEWEST_PROXIES:
            raise DataError(
                f"The model knows {len(facts)} of the bundled facts, too few to find its golden layer by. Give facts that it knows "
                "(--proxies FILE; in Python proxies=...), or the layer: a number, or `default`."
            )
    if show:
        raced_too = "" if race is None else ", then a race of real edits"
        print_note(
            f"No layer of {name_of(model)} is known yet for {editor.name}: a forecast of all layers by {counted(len(facts), 'fact')}"
            f"{raced_too}. This is kept, and not done again."
        )
    found = find_golden_layer(
        model, tokenizer, facts, batch_size=batch_size, editor=editor, verify=race or False, show=show
    )
    result = replace(found, data=name)
    key.keep(result)
    return result, False


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


def layer_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: LayerWord | LocatorResult,
    editor: EditMethod,
    edited: Sequence[EditRequest] = (),
    batch_size: int = 8,
) -> LayerSpec:
    """What a word for layers means, with the golden layer looked up, or found, where it stands for that.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer.
        layer: As :func:`edit` takes it.
        editor: How facts are edited.
        edited: The facts that will be edited.
        batch_size: Requests a batch, in a search.

    Raises:
        LayerError: If it means nothing, or the file is missing, of another model, or of other weights of this one.
    """
    if isinstance(layer, LocatorResult):
        return LayerSpec.of(layer, "golden layer")
    if not isinstance(layer, str) or layer != AUTO:  # NumPy's arrays are compared entry by entry
        spec = LayerSpec.parse(layer).find(Path.cwd(), name_of(model))
        spec.check_weights(model)
        return spec
    result, _ = known_golden_layer(model, tokenizer, editor, edited=edited, batch_size=batch_size)
    return LayerSpec.of(result, result.data)


def edit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest | Mapping[str, Any]],
    layer: LayerWord | LocatorResult = AUTO,
    editor: EditMethod | None = None,
    batch_size: int = 8,
) -> WeightDelta:
    """Edit facts, all together.

    Args:
        model: A causal language model, on any device; it is left as it was.
        tokenizer: Its fast tokenizer.
        requests: The facts to edit, as requests or as dicts with their fields (``docs/data.md``).
        layer: The block to edit: ``"auto"`` for :func:`known_golden_layer`, which takes minutes once for a model and a method; what
            :func:`find_golden_layer` found (a window around it for methods that spread an edit), a number, several (``"4-8"``, a
            list, or ``"all"``), the path of an attribution.json, ``"golden"`` for that in the current folder, ``"atlas"``: what was
            measured for the model and the method (``docs/atlas.md``), or ``"default"``: what is published for them, or a choice by
            depth.
        editor: How facts are edited; R-ROME by default.
        batch_size: Requests that are worked on at once.

    Returns:
        The edit: ``with delta.attached(model)`` to try it, ``delta.merge_(model)`` to keep it, ``delta.save_pretrained(...)``
        to ship it as a PEFT adapter.

    Raises:
        DataError: If there is no request, two contradict each other, or one is too long for the model.
        SettingError: If ``batch_size`` is below 1.
        LayerError: If the model lacks one of the layers, or the file is missing, of another model, or of other weights of this one.
    """
    check_at_least_one(batch_size=batch_size)  # before a search, as all of these
    editor, asked = editor or RROME(), as_requests(requests)
    check_together(asked)
    check_lengths(model, tokenizer, asked)
    layers, _ = layer_of(model, tokenizer, layer, editor, asked, batch_size).layers_for(editor, model)
    return editor.compute(model, tokenizer, asked, layers, batch_size)
