"""Sentences that the terminal, the pictures and the pages share: what results mean, in words."""

from __future__ import annotations

from collections.abc import Sequence

from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.locators.selection import Choice
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.validation import ValidationResult

LAYER_AXIS = "layer (block of the model, shallowest first)"
WITHIN_FENCES = "within the Tukey fences"
OUTSIDE_FENCES = "outside the fences: left out"
NOT_SETTLED = "The choice is not settled."


def headline(result: LocatorResult) -> str:
    """The choice in one line."""
    return f"Layer {result.choice.golden_layer} is the golden layer of {result.model}"


def score_in_words(result: LocatorResult) -> str:
    """What the vertical axis shows."""
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


def confidence_in_words(choice: Choice) -> str:
    """How sure a choice is."""
    return f"chosen in {choice.confidence:.0%} of bootstrap resamples"


def confidence_set_in_words(choice: Choice) -> str:
    """Between which layers a choice is; "" where a single one holds 90% of the resamples."""
    layers = ", ".join(map(str, choice.confidence_set))
    return f"90% of them choose among the layers {layers}" if len(choice.confidence_set) > 1 else ""


def remarks(result: LocatorResult) -> list[str]:
    """What a person should know about a choice, beside the scores and how sure it is."""
    choice, said = result.choice, []
    if choice.fences is not None:
        left_out = ", ".join(map(str, choice.excluded)) or "none"
        said.append(f"Left out by the Tukey fences (kappa = {choice.fences.kappa:g}): layers {left_out}.")
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
        said.append(f"Ended early, after {early['after']} of {early['of']} requests: the choice was settled.")
    return said


def skipped_in_words(result: LocatorResult | ValidationResult) -> list[str]:
    """Which requests were left out, a sentence for each reason."""
    return [f"Requests left out: {count} ({reason})." for reason, count in result.num_skipped.items() if count]


def what_would_settle(result: LocatorResult) -> str:
    """What the user can do about a choice that could as well have been another."""
    have, needed = result.num_requests, result.requests_to_settle
    if have == 1:
        return "One request says nothing about others: give more (--data.requests, --data.limit)."
    steadier = {"sum": "normalised", "absolute": "absolute_normalised"}.get(result.aggregate)
    also = (
        f", or try an aggregate that few requests cannot rule (--model.locator.aggregate {steadier})"
        if steadier
        else ""
    )
    if needed is not None and have < needed <= 100 * have:
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
    """How the requests were edited."""
    return {"independent": "each edited alone", "batch": "edited together"}.get(
        result.mode, f"edited one after the other, {result.group_size} at a time"
    )


def how_to_read(result: ValidationResult) -> str:
    """What stands in a table of scores, and how much to trust it."""
    if any("generated" in metric.others for metric in result.metrics.values()):
        flatters = "What is not generated is teacher-forced, which flatters."
    else:
        flatters = "All of it is teacher-forced, which flatters: the model was not asked for its own words."
    return f"Under each mean its 95% interval over requests. {flatters}"


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
