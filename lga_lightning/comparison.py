"""How good a choice of layer is, judged by a sweep over requests that had no part in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.attribution import golden_layers

if TYPE_CHECKING:
    from lga_lightning.locators import LayerLocator

Interval = tuple[float, float]


@dataclass(frozen=True)
class Standing:
    """A fixed layer's standing among all layers, in points (hundredths), with 95% bootstrap intervals over requests.

    Attributes:
        layer: The layer.
        score: Its mean score on the test requests.
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


def standing(sweep: Tensor, layer: int, resamples: int = 1000, seed: int = 0) -> Standing:
    """Where a layer stands.

    Args:
        sweep: [N, L] scores of edits, by request and layer, from 0 to 1.
        layer: The layer.
        resamples: Bootstrap resamples of the requests.
        seed: Of the resamples.

    Example:
        >>> found = standing(torch.tensor([[0.5, 1.0], [1.0, 0.75]]), layer=0)
        >>> found.score, found.regret, found.gap, found.place
        (75.0, 12.5, 25.0, 1)
    """
    points = 100 * sweep.double()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(points), (resamples, len(points)), generator=generator)
    counts = torch.zeros(resamples, len(points), dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(drawn.shape).double()
    )

    def three(means: Tensor, optimum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = means[..., layer]
        return own, means.amax(-1) - own, optimum - own

    best = points.amax(1)
    values = three(points.mean(0), best.mean())
    spread = three(counts @ points / len(points), counts @ best / len(points))
    (score, regret, gap), intervals = (value.item() for value in values), [_interval(part) for part in spread]
    place = int((points.mean(0) > points[:, layer].mean() + 1e-9).sum())
    return Standing(layer, score, intervals[0], regret, intervals[1], gap, intervals[2], place)


def expected_regret(
    locator: LayerLocator, scores: Tensor, sweep: Tensor, requests: int, draws: int = 200, seed: int = 0
) -> float:
    """The points lost, on average, by a user who has so many proxy requests.

    Args:
        locator: Whose rule picks the layer.
        scores: [M, L] its scores on proxy requests.
        sweep: [N, L] scores of edits of other requests.
        requests: How many proxies are drawn, without replacement.
        draws: How often.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    means = 100 * sweep.double().mean(0)
    lost = []
    for _ in range(draws):
        drawn = torch.randperm(len(scores), generator=generator)[:requests]
        layer = golden_layers(locator.contributions(scores[drawn]).sum(0), locator.kappa)
        lost.append(means.amax() - means[layer])
    return float(torch.stack(lost).mean())


def _interval(resampled: Tensor) -> Interval:
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
