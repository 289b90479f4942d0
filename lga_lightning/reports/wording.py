"""Sentences that the terminal, the pictures and the pages share: what results mean, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.locators.selection import Choice
from lga_lightning.results.attribution import FEW_REQUESTS, LocatorResult
from lga_lightning.results.race import RaceResult
from lga_lightning.results.validation import ValidationResult

WITHIN_FENCES = "within the Tukey fences"
OUTSIDE_FENCES = "outside the fences: left out"
NOT_SETTLED = "The choice is not settled."
EXPERTS = 5  # that are named
VERIFY = "To verify it with a few real edits: `lga fit --verify`."
METRICS = {"rewrite": "efficacy", "rephrase": "generalisation", "locality": "locality"}
"""What the parts of an edit's score are called where they are drawn and listed by layer."""
FIRST_LOOK = {
    "judged": "Before and after: a judge says that the model's own words state the answer.",
    "contained": "Before and after: the answer is in the model's own words.",
    "generated": "Before and after: the model's own words are the answer.",
}
"""What a person should look at first of a metric, by name of the one that was taken, the best first."""


def headline(result: LocatorResult) -> str:
    """The choice in one line."""
    layers = result.golden_layers
    named = layers_in_words(layers).capitalize()
    if result.is_forecast or result.verified:
        return f"{named} of {result.model}: {verdict(result)}"
    return f"{named} {'is the golden layer' if len(layers) == 1 else 'are the golden layers'} of {result.model}"


def verdict(result: LocatorResult) -> str:
    """What is known of the golden layer of a forecast, or after a race: what it is expected to score, or what the edits say."""
    race = result.race
    if race is None:
        score = 100 * result.choice.scores[result.golden_layer]
        return f"expected score {score:.1f} (forecast from {counted(result.num_requests, 'request')}, not verified)"
    return f"{_within(race)}{'' if race.settled else ' only'}, after {counted(race.edits, 'edit')}"


def full_verdict(result: LocatorResult) -> str:
    """The verdict; of a race that is not settled, with what would settle it."""
    race = result.race
    if race is None or race.settled:
        return verdict(result)
    if race.ended == "requests":
        used = f"all {counted(race.requests, 'request')} are used up"
        return f"{_within(race)} only: {used}; give more (--data.requests, --data.limit)"
    budget = str(race.settings.get("budget") or race.edits)
    if len(budget.split()) > 1:  # a time
        return (
            f"{_within(race)} only: the budget of {budget} is used up, after {counted(race.edits, 'edit')}; more: "
            "--verify.budget 'N min'"
        )
    return f"{_within(race)} only: the budget of {budget} edits is used up; more: --verify.budget N"


def basis_in_words(result: LocatorResult) -> str:
    """What the choice rests on."""
    scope = f" over {result.scope}" if result.scope not in (None, "value") else ""
    said = f"{result.locator}{scope} on {counted(result.num_requests, 'request')} of {result.data}"
    if result.race is not None:
        return f"{said}, then {counted(result.race.edits, 'real edit')} of {result.race.requests} of them"
    return f"{said}; {stability_in_words(result)}"


def stability_in_words(result: LocatorResult) -> str:
    """In which share of the resamples the choice is the same; of a forecast, that says how stable it is, not whether it is right."""
    if result.num_requests == 1:
        return "one request gives no confidence"
    if result.is_forecast:
        return f"the same layer in {result.choice.confidence:.0%} of the resamples of the requests"
    return f"chosen in {result.choice.confidence:.0%} of bootstrap resamples"


def layers_on_axis(result: LocatorResult) -> str:
    """What the horizontal axis shows."""
    layer = "layer" if result.window == 1 else f"last layer of a window of {result.window}"
    return f"{layer} (block of the model, shallowest first)"


def score_in_words(result: LocatorResult) -> str:
    """What the vertical axis shows."""
    if result.is_forecast:
        return "expected score of an edit there, in points"
    if result.is_sweep:
        return "score of an edit there, in points"
    if result.aggregate == "mean":
        return "score: mean over requests"
    statistic = result.settings.get("statistic", "dot" if result.scope else "scores")
    statistic = {"dot": "⟨$g_{old}$, $g_{new}$⟩", "new_norm": "|$g_{new}$|"}.get(statistic, statistic)
    if result.aggregate.startswith("absolute"):
        statistic = f"|{statistic}|"
    way = result.aggregate.removeprefix("absolute").removeprefix("_")
    way = {"": "", "sum": "", "rank": ", by rank"}.get(way, f", {way}")
    shared = f", ± {result.neighbours} layer{'s' * (result.neighbours > 1)}" if result.neighbours else ""
    return f"score: sum over requests of {statistic}{way}{shared}"


def confidence_set_in_words(choice: Choice) -> str:
    """Between which layers a choice is; "" where a single one holds 90% of the resamples."""
    layers = ", ".join(map(str, choice.confidence_set))
    return f"90% of them choose among the layers {layers}" if len(choice.confidence_set) > 1 else ""


def remarks(result: LocatorResult) -> list[str]:
    """What a person should know about a choice, beside the scores and how sure it is."""
    choice, said = result.choice, []
    if choice.fences is not None:
        left_out = layers_in_words(choice.excluded) if choice.excluded else "no layer"
        said.append(f"The Tukey fences (kappa = {choice.fences.kappa:g}) leave out {left_out}.")
    said += skipped_in_words(result)
    if result.scope and not result.aggregate.startswith("absolute") and max(choice.scores) < 0:
        said.append(
            "Every score is negative: the model knows these facts, and the signed sum then favours layers that have little to do "
            "with them. Compare with --model.locator.aggregate absolute."
        )
    if result.seconds is not None:
        said.append(f"Scored in {result.seconds:.1f} s.")
    if result.stopped_early is not None:
        early = result.stopped_early
        why = (
            f"the same layer in {early['confidence']:.0%} of the resamples"
            if result.is_forecast
            else "the choice was settled"
        )
        said.append(f"Ended early, after {early['after']} of {early['of']} requests: {why}.")
    if result.window > 1:
        said.append(f"A layer stands for the window of up to {result.window} blocks that ends there.")
    if result.settings.get("together"):
        said.append("The requests of a batch were edited together: this is where many facts go, not where one goes.")
    said += _remarks_on_experts(result)
    said += _remarks_on_forecast(result) if result.is_forecast else []
    return said + (_remarks_on_race(result, result.race) if result.race is not None else [])


def _remarks_on_experts(result: LocatorResult) -> list[str]:
    """Of a mixture, which experts an edit of the golden layer changes."""
    if result.experts is None:
        return []
    layer = result.golden_layer
    if not result.experts:
        return [
            f"Edited is the shared expert of layer {layer}. For the routed ones in its place, and what is expected of them: "
            "`--model.structure lga_lightning.models.structure.RoutedExperts`, in a folder of its own."
        ]
    shares = [f"{one.expert} {one.share:.0%} ({counted(one.requests, 'request')})" for one in result.experts[:EXPERTS]]
    others = len(result.experts) - EXPERTS
    more = f", and {counted(others, 'other')}" if others > 0 else ""
    return [f"Of an edit of layer {layer}, the routed experts would carry: {', '.join(shares)}{more}."]


def _remarks_on_forecast(result: LocatorResult) -> list[str]:
    said = []
    missing = [name for part, name in METRICS.items() if all(map(math.isnan, result.means[f"expected_{part}"]))]
    if missing:
        said.append(f"Not in the score, for the requests have no prompts for it: {', '.join(missing)}.")
    if result.num_requests < FEW_REQUESTS:
        said.append(
            f"Few requests: {result.num_requests} counted, so the expected scores are rough. Give {FEW_REQUESTS} or more if you can "
            "(--data.requests, --data.limit)."
        )
    if not result.verified:
        stable = stability(result)
        said.append(f"{stable[0].upper()}{stable[1:]}.")
    return said


def _remarks_on_race(result: LocatorResult, race: RaceResult) -> list[str]:
    took = "" if race.seconds is None else f", in {race.seconds:.1f} s"
    alone = "The forecast" if result.is_forecast else result.locator
    return [
        f"{alone} alone named layer {result.choice.golden_layer}: {stability(result)}.",
        f"The race made {counted(race.edits, 'edit')} of {counted(race.requests, 'request')}{took}.",
    ]


def stability(result: LocatorResult) -> str:
    """How sure a choice is, and among which layers it lies where that is not one."""
    return "; ".join(filter(None, (stability_in_words(result), confidence_set_in_words(result.choice))))


def _within(race: RaceResult) -> str:
    """How close to the best with which probability: rounded down, and never to certainty, for it comes from draws."""
    points = f"{race.tolerance:.1f} point{'s' * (race.tolerance > 1)}"
    what = "window" if len(race.layers) > 1 else "layer"
    return f"within {points} of the best {what} with {min(99, math.floor(100 * race.confidence + 1e-9))}%"


def skipped_in_words(result: LocatorResult | ValidationResult) -> list[str]:
    """Which requests were left out, a sentence for each reason."""
    return [f"Requests left out: {count} ({reason})." for reason, count in result.num_skipped.items() if count]


def what_would_settle(result: LocatorResult) -> str:
    """What the user can do about a choice that could as well have been another."""
    have, needed = result.num_requests, result.requests_to_settle
    if have == 1:
        return "One request says nothing about others: give more (--data.requests, --data.limit)."
    if result.choice.settled:
        return (
            f"The resamples of {have} requests agree because there are so few: give {FEW_REQUESTS} or more (--data.requests, "
            "--data.limit)."
        )
    steadier = {"sum": "normalised", "absolute": "absolute_normalised"}.get(result.aggregate)
    also = (
        f", or try an aggregate that few requests cannot rule (--model.locator.aggregate {steadier})"
        if steadier
        else ""
    )
    if needed is not None and needed <= have:
        return (
            "The layer leads the runner-up clearly; what wavers from resample to resample is what else is in the running, or what the fences "
            f"leave out: compare them with `lga validate --model.layer ...`{also}."
        )
    if needed is not None and needed <= 100 * have:
        return (
            f"By its lead over the runner-up so far, it takes about {needed} requests like these {have} to tell the two "
            f"apart: give more{also}."
        )
    return (
        "No practical number of requests like these would tell these layers apart: compare them with `lga validate "
        f"--model.layer ...`{also}."
    )


def relations_verdict(found: RelationLayers) -> str:
    """Whether relations differ, in a sentence."""
    verdict = "differ beyond chance" if found.p_value < 0.05 else "differ no more than chance would have it"
    return f"The relations' layers {verdict} (permutation test, p = {found.p_value:.3f})."


def mode_in_words(result: ValidationResult) -> str:
    """How the requests were edited, and how many of them were scored."""
    said = {"independent": "each edited alone", "batch": "edited together"}.get(
        result.mode, f"edited one after the other, {result.group_size} at a time"
    )
    return said if result.num_scored is None else f"{said}; {result.num_scored} of them, drawn at random, scored"


def how_to_read(result: ValidationResult) -> str:
    """What stands in a table of scores, and how much to trust it."""
    kinds = {name for metric in result.metrics.values() for name in metric.others}
    first = next((words for name, words in FIRST_LOOK.items() if name in kinds), None)
    if first is None:
        said = "All of it is teacher-forced, which flatters: the model was not asked for its own words."
    else:
        said = f"{first} What is teacher-forced flatters; there, and exactly, locality is what is unchanged."
    return f"Under each mean its 95% interval over requests. {said}"


def counted(count: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "edit"), counted(210, "edit")
        ('1 edit', '210 edits')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def layers_in_words(layers: Sequence[int]) -> str:
    """Layers with the word for them.

    Example:
        >>> layers_in_words([3]), layers_in_words([4, 5, 6])
        ('layer 3', 'layers 4-6')
    """
    return f"layer{'s' * (len(layers) > 1)} {name_layers(layers)}"


def name_layers(layers: Sequence[int]) -> str:
    """Layers in a few signs.

    Example:
        >>> name_layers([3]), name_layers([4, 5, 6]), name_layers([1, 3])
        ('3', '4-6', '1, 3')
    """
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def low_rank_in_words(error: float) -> str:
    """What is lost where an edit is written with a lower rank than it has.

    Args:
        error: Largest relative error of the change of a matrix, by the Frobenius norm.

    Example:
        >>> low_rank_in_words(0.0432)
        'Written with a lower rank: up to 4.3% of the change of a matrix (Frobenius norm) is left out.'
    """
    return (
        f"Written with a lower rank: up to {100 * error:.2g}% of the change of a matrix (Frobenius norm) is left out."
    )
