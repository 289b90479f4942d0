"""What results mean, in words that the terminal, the picture and the page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.results.attribution import LocatorResult


def score_in_words(attribution: LocatorResult) -> str:
    """What the vertical axis shows."""
    if attribution.aggregate == "mean":
        return "score: mean over requests"
    statistic = attribution.settings.get("statistic", "dot" if attribution.scope else "scores")
    statistic = {"dot": "⟨$g_{old}$, $g_{new}$⟩", "new_norm": "|$g_{new}$|"}.get(statistic, statistic)
    if attribution.aggregate.startswith("absolute"):
        statistic = f"|{statistic}|"
    way = attribution.aggregate.removeprefix("absolute").removeprefix("_")
    shared = f", ± {attribution.neighbours} layers" if attribution.neighbours else ""
    return f"score: sum over requests of {statistic}" + (f", as {way}" if way not in ("", "sum") else "") + shared


def remarks(attribution: LocatorResult) -> list[str]:
    """What a person should know about a choice, beside the scores and how sure it is."""
    choice, said = attribution.choice, []
    if choice.fences is not None:
        left_out = ", ".join(map(str, choice.excluded)) or "none"
        said.append(f"Left out by the Tukey fences (kappa = {choice.fences.kappa:g}): layers {left_out}.")
    said += [f"Requests left out: {count} ({reason})." for reason, count in attribution.num_skipped.items() if count]
    if attribution.scope and not attribution.aggregate.startswith("absolute") and max(choice.scores) < 0:
        said.append(
            "Every score is negative: the model knows these facts, and the signed sum then favours layers that have little to do "
            "with them. Compare with --model.locator.aggregate absolute."
        )
    if attribution.seconds is not None:
        said.append(f"Scored in {attribution.seconds:.1f} s.")
    if attribution.stopped_early is not None:
        early = attribution.stopped_early
        said.append(f"Ended early, after {early['after']} of {early['of']} requests: the choice was settled.")
    return said


def what_would_settle(attribution: LocatorResult) -> str:
    """What the user can do about a choice that could as well have been another."""
    have, needed = attribution.num_requests, attribution.requests_to_settle
    if have == 1:
        return "One request says nothing about others: give more (--data.requests, --data.limit)."
    steadier = {"sum": "normalised", "absolute": "absolute_normalised"}.get(attribution.aggregate)
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


def mode_in_words(content: Mapping[str, Any]) -> str:
    """How the requests were edited, from what ``validation.json`` holds."""
    return {"independent": "each edited alone", "batch": "edited together"}.get(
        content["mode"], f"edited one after the other, {content.get('group_size')} at a time"
    )


def name_layers(layers: Sequence[int]) -> str:
    """Layers in a few signs.

    Example:
        >>> name_layers([3]), name_layers([4, 5, 6]), name_layers([1, 3])
        ('3', '4-6', '1, 3')
    """
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))
