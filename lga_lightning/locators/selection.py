"""From scores to a layer: Tukey fences, argmax, and how sure the choice is.

Source of the fences: Golden Layers and Where to Find Them (arXiv 2602.20207).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lga_lightning.utils.bootstrap import resample_counts

TIE = 1e-9
"""Of the scores' size: what differs by less differs by rounding."""


@dataclass(frozen=True)
class Fences:
    """Tukey fences: layers whose score is outside are outliers.

    Attributes:
        lower: Q1 - kappa IQR.
        upper: Q3 + kappa IQR.
        kappa: How wide the fences are, in interquartile ranges.
    """

    lower: float
    upper: float
    kappa: float


def tukey_fences(scores: Tensor, kappa: float = 1.0) -> Tensor:
    """Tukey fences over the layers, [Q1 - kappa IQR, Q3 + kappa IQR] with linear quartiles.

    Args:
        scores: [..., L] scores.
        kappa: Width of the fences in interquartile ranges.

    Returns:
        [..., 2] lower and upper fence, in float64.

    Example:
        >>> tukey_fences(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]))
        tensor([0., 6.], dtype=torch.float64)
    """
    q1, q3 = torch.quantile(scores.double(), scores.new_tensor([0.25, 0.75], dtype=torch.float64), dim=-1)
    return torch.stack([q1 - kappa * (q3 - q1), q3 + kappa * (q3 - q1)], dim=-1)


def golden_layers(scores: Tensor, kappa: float | None = 1.0) -> Tensor:
    """The layer of the highest score within the fences; ties go to the shallower layer.

    Sums of the same numbers in another order differ in their last digits, so what differs by no more than a billionth of the largest score
    within the fences is a tie.

    Args:
        scores: [..., L] scores.
        kappa: Width of the fences in interquartile ranges; None for no fences.

    Returns:
        [...] indices of layers.

    Example:
        >>> golden_layers(torch.tensor([1.0, 3.0, 3.0, 2.0, 100.0]))
        tensor(1)
    """
    candidates = scores = scores.double()
    if kappa is not None:
        fences = tukey_fences(scores, kappa)
        inside = (scores >= fences[..., :1]) & (scores <= fences[..., 1:])
        candidates, scores = scores.where(inside, -math.inf), scores.where(inside, 0)
    tied = candidates.amax(-1, keepdim=True) - TIE * scores.abs().amax(-1, keepdim=True)
    return (candidates >= tied).int().argmax(-1)  # argmax of integers gives the first


def bootstrap(scores: Tensor, kappa: float | None = 1.0, resamples: int = 1000) -> Tensor:
    """How often each layer is chosen when the requests are drawn anew with replacement.

    Args:
        scores: [N, L] what each request contributes.
        kappa: Width of the fences in interquartile ranges; None for no fences.
        resamples: Number of draws.

    Returns:
        [L] shares, in float64, that add up to one.
    """
    requests, layers = scores.shape
    scores = scores.double()
    votes = torch.zeros(layers, dtype=torch.float64)
    for counts in resample_counts(requests, resamples):
        votes += torch.bincount(golden_layers(counts @ scores, kappa), minlength=layers)
    return votes / resamples


@dataclass(frozen=True)
class Choice:
    """A golden layer, how it was found, and how sure it is.

    Attributes:
        scores: [L] sum of the requests' scores.
        standard_errors: [L] of these sums, over requests.
        fences: The Tukey fences; None where there are none.
        excluded: Layers outside the fences.
        ranking: All layers, the golden one first, the excluded ones last.
        golden_layer: The first of the ranking.
        confidence: Share of bootstrap resamples of the requests that choose the golden layer.
        confidence_set: The fewest layers that hold 90% of the resamples, the most frequent first.
    """

    scores: list[float]
    standard_errors: list[float]
    fences: Fences | None
    excluded: list[int]
    ranking: list[int]
    golden_layer: int
    confidence: float
    confidence_set: list[int]

    @property
    def settled(self) -> bool:
        """Whether 90% of the resamples choose the golden layer."""
        return self.confidence_set == [self.golden_layer]


def choose(scores: Tensor, kappa: float | None = 1.0, resamples: int = 1000) -> Choice:
    """Add up the requests' scores and choose the golden layer.

    Args:
        scores: [N, L] what each request contributes, finite.
        kappa: Width of the Tukey fences in interquartile ranges; None for no fences.
        resamples: Bootstrap resamples for the confidence.

    Raises:
        ValueError: If there is no request, or a score is not finite.

    Example:
        >>> choice = choose(torch.tensor([[1.0, 3.0, 2.0, 90.0], [1.0, 3.0, 2.5, 90.0]]))
        >>> choice.golden_layer, choice.excluded, choice.ranking
        (1, [3], [1, 2, 0, 3])
    """
    if scores.ndim != 2 or len(scores) == 0:
        raise ValueError(
            f"`scores` must be [requests, layers] with at least one request, got shape {tuple(scores.shape)}."
        )
    if not scores.isfinite().all():
        raise ValueError("`scores` must be finite.")
    scores = scores.cpu().double()
    total = scores.sum(0)
    fences: Fences | None = None
    excluded: list[int] = []
    if kappa is not None:
        lower, upper = tukey_fences(total, kappa).tolist()
        fences = Fences(lower, upper, kappa)
        excluded = [layer for layer, score in enumerate(total.tolist()) if not lower <= score <= upper]
    golden = int(golden_layers(total, kappa))
    ranking = sorted(
        range(len(total)), key=lambda layer: (layer != golden, layer in excluded, -total[layer].item(), layer)
    )
    errors = scores.std(0) * math.sqrt(len(scores)) if len(scores) > 1 else torch.full_like(total, math.nan)
    shares = bootstrap(scores, kappa, resamples)
    by_share = sorted(range(len(shares)), key=lambda layer: (-shares[layer].item(), layer))
    held = shares[by_share].cumsum(0)
    return Choice(
        scores=total.tolist(),
        standard_errors=errors.tolist(),
        fences=fences,
        excluded=excluded,
        ranking=ranking,
        golden_layer=golden,
        confidence=shares[golden].item(),
        confidence_set=by_share[: int((held < 0.9 - 1e-12).sum()) + 1],
    )
