"""How good a choice of layer is, judged by a sweep over requests that had no part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.locators.aggregation import AGGREGATES
from lga_lightning.locators.gradients import GradientLocator, gradient_statistics
from lga_lightning.utils.bootstrap import resample_counts

if TYPE_CHECKING:
    from lga_lightning.locators import LayerLocator
    from lga_lightning.models.architecture import Scope

Interval = tuple[float, float]


@dataclass(frozen=True)
class LayerRegret:
    """How a fixed layer stands among all layers, in points (hundredths), with 95% bootstrap intervals over requests.

    Attributes:
        layer: Index of the layer.
        score: Mean score of the layer on the test requests.
        regret: What the best fixed layer has more.
        gap: What the best layer of each request by itself has more, in the mean: the sample-wise optimum.
        place: How many layers have a higher mean.
    """

    layer: int
    score: float
    score_interval: Interval
    regret: float
    regret_interval: Interval
    gap: float
    gap_interval: Interval
    place: int

    def hit(self, k: int) -> bool:
        """Whether it is among the k best layers."""
        return self.place < k


def layer_regret(sweep: Tensor, layer: int, resamples: int = 1000) -> LayerRegret:
    """How a layer stands among all layers of a sweep.

    Args:
        sweep: [N, L] scores of edits, by request and layer, from 0 to 1.
        layer: Index of the layer.
        resamples: Bootstrap resamples of the requests.

    Example:
        >>> found = layer_regret(torch.tensor([[0.5, 1.0], [1.0, 0.75]]), layer=0)
        >>> found.score, found.regret, found.gap, found.place
        (75.0, 12.5, 25.0, 1)
    """
    points = 100 * sweep.double()
    counts = torch.cat(list(resample_counts(len(points), resamples)))

    def three(means: Tensor, optimum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = means[..., layer]
        return own, means.amax(-1) - own, optimum - own

    best = points.amax(1)
    values = three(points.mean(0), best.mean())
    spread = three(counts @ points / len(points), counts @ best / len(points))
    (score, regret, gap), intervals = (value.item() for value in values), [_interval(part) for part in spread]
    place = int((points.mean(0) > points[:, layer].mean() + 1e-9).sum())
    return LayerRegret(layer, score, intervals[0], regret, intervals[1], gap, intervals[2], place)


@dataclass(frozen=True)
class RegretPoint:
    """What a user can expect who has so many proxy requests.

    Attributes:
        requests: Number of proxy requests.
        confidence: Mean over draws of the bootstrap confidence in the layer that is picked.
        regret: Mean over draws of the points that the layer loses against the best fixed layer: the expected regret.
    """

    requests: int
    confidence: float
    regret: float


def regret_points(
    locator: LayerLocator,
    scores: Tensor,
    sweep: Tensor,
    sizes: Sequence[int],
    draws: int = 200,
    resamples: int = 100,
) -> list[RegretPoint]:
    """Expected regret and confidence by number of proxy requests.

    Requests are drawn without replacement, so that draws of nearly all of them are nearly the same: their mean is then that of
    a few independent draws.

    Args:
        locator: Locator whose rule picks the layer.
        scores: [M, L] scores of the locator on proxy requests.
        sweep: [N, L] scores of edits of other requests, from 0 to 1.
        sizes: Numbers of requests; those above M are left out.
        draws: How often requests are drawn.
        resamples: Bootstrap resamples within a draw.
    """
    means = 100 * sweep.double().mean(0)
    points = []
    for size in sizes:
        generator = torch.Generator().manual_seed(0)
        choices = []
        for _ in range(draws if 0 < size <= len(scores) else 0):
            drawn = torch.randperm(len(scores), generator=generator)[:size]
            choices.append(locator.choose(scores[drawn], resamples))
        if choices:
            lost = [float(means.amax() - means[choice.golden_layer]) for choice in choices]
            points.append(RegretPoint(size, fmean(choice.confidence for choice in choices), fmean(lost)))
    return points


@dataclass(frozen=True)
class Candidate:
    """A rule that makes a layer of the gradients' evidence, and how it chose.

    Attributes:
        scope: Which parameters counted.
        statistic: What was compared; see :class:`~lga_lightning.locators.gradients.GradientLocator`.
        aggregate: How requests were added up.
        kappa: Width of the fences; None for none.
        neighbours: How many layers on either side share their evidence.
        layer: The layer with all proxies.
        confidence: The share of bootstrap resamples that choose it.
        regret: The points that it loses against the best fixed layer.
        expected_regret: The same, expected with ``requests`` proxies.
        requests: Number of those proxies.
    """

    scope: str
    statistic: str
    aggregate: str
    kappa: float | None
    neighbours: int
    layer: int
    confidence: float
    regret: float
    expected_regret: float
    requests: int


def judge_candidates(
    scope: Scope, evidence: Tensor, sweep: Tensor, requests: int = 100, draws: int = 200
) -> list[Candidate]:
    """Every rule that the gradients' evidence allows: each statistic under each aggregate, with and without fences and neighbours.

    Args:
        scope: Scope of the evidence.
        evidence: [M, 4, L] the columns of a :class:`GradientLocator` on proxy requests.
        sweep: [N, L] scores of edits of other requests, from 0 to 1.
        requests: The expected regret is that with so many proxies, or with M where there are fewer.
        draws: How often they are drawn.
    """
    requests = min(requests, len(evidence))
    means = 100 * sweep.double().mean(0)
    found = []
    cosine, old, new = evidence[:, 1:].double().unbind(1)
    for statistic, scores in gradient_statistics(cosine * old * new, cosine, old, new).items():
        for aggregate, kappa, neighbours in product(AGGREGATES, (1.0, None), (0, 1)):
            if aggregate == "mean" or (statistic == "new_norm" and aggregate.startswith("absolute")):
                continue  # the same as another
            locator = GradientLocator(scope, kappa, aggregate, statistic, neighbours)  # type: ignore[arg-type]
            choice = locator.choose(scores)
            point = regret_points(locator, scores, sweep, [requests], draws, resamples=1)[0]
            regret = float(means.amax() - means[choice.golden_layer])
            how = (scope, statistic, aggregate, kappa, neighbours)
            found.append(Candidate(*how, choice.golden_layer, choice.confidence, regret, point.regret, requests))
    return sorted(found, key=lambda candidate: candidate.expected_regret)


def _interval(resampled: Tensor) -> Interval:
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
