"""Layer Gradient Analysis as pure functions: Gram products, Tukey fences, the choice of a layer.

For a linear map y = W a over T tokens, dL/dW = sum_t b_t a_t^T with b_t = dL/dy_t. The inner product of two such
gradients needs neither of them: <g, g'> = sum_tu (a_t . a'_u)(b_t . b'_u), two T x T' Gram matrices. Source: Golden
Layers and Where to Find Them (arXiv 2602.20207) for the score and the fences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1 << 24  # elements of the largest intermediate tensor: 64 MB in float32


def matrix_gram(inputs: Tensor, gradients: Tensor, bias: bool = False) -> Tensor:
    """Inner products between the weight gradients of a linear map, within pairs of rows.

    Rows 2i and 2i + 1 are a pair (the old and the new answer of request i). Whichever is cheaper is done: Gram matrices
    over tokens, T^2 (d_in + d_out) a pair, or materialised gradients, T d_in d_out; the result is the same.

    Args:
        inputs: [2B, T, d_in] inputs a of the map.
        gradients: [2B, T, d_out] gradients b of the losses with respect to the map's output.
        bias: Whether the map has a bias whose gradient is counted in.

    Returns:
        [B, 2, 2] Gram matrices of the pairs' gradients, in float32 or better.
    """
    inputs, gradients = at_least_float32(inputs), at_least_float32(gradients)
    rows, tokens, d_in = inputs.shape
    d_out = gradients.shape[-1]
    by_tokens = 2 * tokens * (d_in + d_out) <= d_in * d_out
    largest = (2 * tokens) ** 2 if by_tokens else 2 * d_in * d_out
    step = max(1, CHUNK // largest)  # pairs at a time
    product = _gram_by_tokens if by_tokens else _gram_by_gradients
    a = inputs.view(rows // 2, 2, tokens, d_in).split(step)
    b = gradients.view(rows // 2, 2, tokens, d_out).split(step)
    gram = torch.cat([product(x, y) for x, y in zip(a, b, strict=True)])
    return gram + vector_gram(gradients.sum(1)) if bias else gram


def vector_gram(gradients: Tensor) -> Tensor:
    """Inner products between gradients that are vectors (of a bias or a norm), within pairs of rows.

    Args:
        gradients: [2B, d] gradients, rows 2i and 2i + 1 a pair.

    Returns:
        [B, 2, 2] Gram matrices.
    """
    pairs = at_least_float32(gradients).unflatten(0, (-1, 2))
    return pairs @ pairs.mT


def norm_gram(normalised: Tensor, gradients: Tensor, bias: bool = False) -> Tensor:
    """Inner products between the gradients of a norm's weight (and bias), within pairs of rows.

    A norm is y = w * x^ + c, so dL/dw = sum_t b_t * x^_t and dL/dc = sum_t b_t.

    Args:
        normalised: [2B, T, d] the normalised inputs x^.
        gradients: [2B, T, d] gradients b of the losses with respect to the norm's output.
        bias: Whether the norm has a bias whose gradient is counted in.

    Returns:
        [B, 2, 2] Gram matrices.
    """
    gradients = at_least_float32(gradients)
    gram = vector_gram((gradients * normalised).sum(1))
    return gram + vector_gram(gradients.sum(1)) if bias else gram


def _gram_by_tokens(a: Tensor, b: Tensor) -> Tensor:
    """[n, 2, T, d] each -> [n, 2, 2], by T x T Gram matrices."""
    pairs, _, tokens, _ = a.shape
    a, b = a.flatten(1, 2), b.flatten(1, 2)
    product = (a @ a.mT).mul_(b @ b.mT)
    return product.view(pairs, 2, tokens, 2, tokens).sum((2, 4))


def _gram_by_gradients(a: Tensor, b: Tensor) -> Tensor:
    """[n, 2, T, d] each -> [n, 2, 2], by the gradients themselves."""
    gradients = (b.mT @ a).flatten(2)
    return gradients @ gradients.mT


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


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
        candidates = scores.where(inside, -math.inf)
    best = candidates.amax(-1, keepdim=True)
    return (candidates == best).int().argmax(-1)  # argmax of integers gives the first


def bootstrap(scores: Tensor, kappa: float | None = 1.0, resamples: int = 1000, seed: int = 0) -> Tensor:
    """How often each layer is chosen when the requests are drawn anew with replacement.

    Args:
        scores: [N, L] what each request contributes.
        kappa: Width of the fences in interquartile ranges; None for no fences.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        [L] shares, in float64, that add up to one.
    """
    requests, layers = scores.shape
    scores = scores.double()
    votes = torch.zeros(layers, dtype=torch.float64)
    for counts in resample_counts(requests, resamples, seed):
        votes += torch.bincount(golden_layers(counts @ scores, kappa), minlength=layers)
    return votes / resamples


def resample_counts(requests: int, resamples: int = 1000, seed: int = 0) -> Iterator[Tensor]:
    """How often each request is drawn when as many are drawn with replacement, draw by draw.

    Args:
        requests: Number N of requests.
        resamples: Number of draws.
        seed: Of the draws.

    Yields:
        [R, N] counts in float64, a hundred draws at a time: those of 20,000 requests stay at 16 MB.
    """
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, resamples, 100):
        drawn = torch.randint(requests, (min(100, resamples - start), requests), generator=generator)
        counts = torch.zeros(len(drawn), requests, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))


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


def choose(scores: Tensor, kappa: float | None = 1.0, resamples: int = 1000, seed: int = 0) -> Choice:
    """Add up the requests' scores and choose the golden layer.

    Args:
        scores: [N, L] what each request contributes, finite.
        kappa: Width of the Tukey fences in interquartile ranges; None for no fences.
        resamples: Bootstrap resamples for the confidence.
        seed: Of the resamples.

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
    ranking = sorted(range(len(total)), key=lambda layer: (layer in excluded, -total[layer].item(), layer))
    errors = scores.std(0) * math.sqrt(len(scores)) if len(scores) > 1 else torch.full_like(total, math.nan)
    shares = bootstrap(scores, kappa, resamples, seed)
    by_share = sorted(range(len(shares)), key=lambda layer: (-shares[layer].item(), layer))
    held = shares[by_share].cumsum(0)
    return Choice(
        scores=total.tolist(),
        standard_errors=errors.tolist(),
        fences=fences,
        excluded=excluded,
        ranking=ranking,
        golden_layer=ranking[0],
        confidence=shares[ranking[0]].item(),
        confidence_set=by_share[: int((held < 0.9 - 1e-12).sum()) + 1],
    )
