"""From many requests to one score a layer: ways to add up, and whether kinds of requests want different layers.

All ways have one form: each request contributes a number for each layer, and contributions are summed. So standard
errors, the bootstrap and the fences mean the same for every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lga_lightning.locators.selection import TIE, Choice, choose, golden_layers

Aggregate = Literal[
    "sum",
    "absolute",
    "normalised",
    "absolute_normalised",
    "rank",
    "absolute_rank",
    "trimmed",
    "absolute_trimmed",
    "mean",
]
AGGREGATES: tuple[str, ...] = get_args(Aggregate)

TRIM = 0.1  # of the requests at either end
FEWEST = 5  # requests of a relation, for a layer of its own


def contributions(scores: Tensor, aggregate: Aggregate = "sum") -> Tensor:
    """What each request contributes to each layer's score, which is the sum of these.

    - ``sum``: its score (the paper's rule); ``mean``: its score over N.
    - ``normalised``: its score over the sum of its absolute scores at all layers, so that every request weighs the same.
    - ``rank``: how many layers it puts lower (half of those that tie), over L - 1. No single layer or request can rule.
    - ``trimmed``: its score; at each layer the lowest and the highest tenth of the requests contribute nothing, and the
      others the more: N times the trimmed mean.
    - ``absolute`` and ``absolute_...``: the same of the absolute scores.

    Args:
        scores: [N, L] per-request scores.
        aggregate: One of ``AGGREGATES``.

    Returns:
        [N, L] in float64.

    Example:
        >>> contributions(torch.tensor([[1.0, -3.0], [50.0, 50.0]]), "normalised").tolist()
        [[0.25, -0.75], [0.5, 0.5]]
    """
    scores = scores.double()
    requests, layers = scores.shape
    if aggregate.startswith("absolute"):
        scores = scores.abs()
    way = aggregate.removeprefix("absolute").removeprefix("_")
    if way == "mean":
        return scores / requests
    if way == "normalised":
        return scores / scores.abs().sum(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    if way == "rank":
        ordered = scores.sort(1).values
        lower = torch.searchsorted(ordered, scores.contiguous())
        not_higher = torch.searchsorted(ordered, scores.contiguous(), right=True)
        return (lower + not_higher - 1).double() / (2 * max(1, layers - 1))
    if way == "trimmed":
        cut = int(TRIM * requests)
        place = scores.argsort(dim=0, stable=True).argsort(dim=0)
        kept = (place >= cut) & (place < requests - cut)
        return scores.where(kept, 0) * (requests / (requests - 2 * cut))
    return scores


def shared(contributed: Tensor, neighbours: int) -> Tensor:
    """Each layer's contributions as the mean over it and its neighbours.

    Edits of adjacent layers do much the same, so their evidence is about the same thing; a spike of a single layer is not.

    Args:
        contributed: [N, L] contributions.
        neighbours: How many on either side; at the ends of the model there are fewer.

    Example:
        >>> shared(torch.tensor([[9.0, 0.0, 0.0, 3.0]]), 1).tolist()
        [[4.5, 3.0, 1.0, 1.5]]
    """
    if not neighbours:
        return contributed
    width = 2 * neighbours + 1
    mean = torch.nn.functional.avg_pool1d
    return mean(contributed.unsqueeze(1), width, stride=1, padding=neighbours, count_include_pad=False).squeeze(1)


@dataclass(frozen=True)
class RelationLayers:
    """The layer that each kind of request would have for itself, and whether the kinds differ.

    Attributes:
        relations: Names, those with the most requests first; each has at least five requests.
        num_requests: Requests of each.
        golden_layers: Layer of each.
        confidences: Share of bootstrap resamples of its requests that choose that layer.
        p_value: P-value of the permutation test: how often relations that are dealt out by chance gain as much from layers
            of their own as these do.
    """

    relations: list[str]
    num_requests: list[int]
    golden_layers: list[int]
    confidences: list[float]
    p_value: float


def choose_by_relation(
    contributed: Tensor,
    relations: Sequence[str | None],
    kappa: float | None = 1.0,
    permutations: int = 999,
) -> RelationLayers | None:
    """A golden layer for each relation, and a permutation test of whether they differ beyond chance.

    What relations gain from layers of their own is the sum over requests of the contribution at the layer of the
    request's relation, less that at the layer of all. Under the null hypothesis relations do not matter, so dealing them out
    anew among the requests gives gains of the same distribution.

    Args:
        contributed: [N, L] contributions of requests.
        relations: N names, None for requests without one, which are left out.
        kappa: Width of the Tukey fences in interquartile ranges; None for no fences.
        permutations: How often relations are dealt out anew.

    Returns:
        None if fewer than two relations have at least five requests.
    """
    names = [name for name in dict.fromkeys(relations) if name is not None]
    members = {name: [row for row, relation in enumerate(relations) if relation == name] for name in names}
    names = sorted(
        (name for name in names if len(members[name]) >= FEWEST), key=lambda name: (-len(members[name]), name)
    )
    if len(names) < 2:
        return None
    choices: list[Choice] = [choose(contributed[members[name]], kappa) for name in names]
    rows = contributed[[row for name in names for row in members[name]]].double()
    labels = torch.tensor([number for number, name in enumerate(names) for _ in members[name]])
    common = int(golden_layers(rows.sum(0), kappa))

    def gain(dealt: Tensor) -> float:
        sums = rows.new_zeros(len(names), rows.shape[1]).index_add_(0, dealt, rows)
        own = golden_layers(sums, kappa).unsqueeze(1)
        return float((sums.gather(1, own).squeeze(1) - sums[:, common]).sum())

    generator = torch.Generator().manual_seed(0)
    observed = gain(labels)
    by_chance = [gain(labels[torch.randperm(len(labels), generator=generator)]) for _ in range(permutations)]
    slack = 1e-9 * max(1.0, abs(observed))
    return RelationLayers(
        relations=names,
        num_requests=[len(members[name]) for name in names],
        golden_layers=[choice.golden_layer for choice in choices],
        confidences=[choice.confidence for choice in choices],
        p_value=(1 + sum(g >= observed - slack for g in by_chance)) / (1 + permutations),
    )


def requests_to_settle(contributed: Tensor, layer: int, alternative: int) -> int | None:
    """About how many requests like these it takes until a layer beats its alternative in 95% of the draws.

    The difference of their contributions has mean m and standard deviation s; the sum over n requests is positive in 95% of
    the draws once n >= (1.645 s / m)^2.

    Args:
        contributed: [N, L] contributions.
        layer: The layer that should win.
        alternative: The layer that it should beat.

    Returns:
        None if there is a single request, or the layer does not lead (the fences left the alternative out), or by rounding alone.
    """
    if len(contributed) < 2:
        return None
    lead = contributed[:, layer] - contributed[:, alternative]
    mean, spread = lead.mean().item(), lead.std().item()
    leads = mean > TIE * contributed.abs().mean(0).max().item()
    return math.ceil((1.645 * spread / mean) ** 2) if leads else None
