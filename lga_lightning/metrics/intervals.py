"""Confidence intervals of means over requests, by the bootstrap."""

from __future__ import annotations

import torch
from torch import Tensor

from lga_lightning.utils.bootstrap import resample_counts


def resampled_means(values: Tensor, resamples: int = 1000, seed: int = 0) -> Tensor:
    """Means of columns over requests that are drawn anew with replacement, the same draws for all columns.

    Args:
        values: [N, K] one row a request, NaN where a request has no value.
        resamples: Number R of draws.
        seed: Seed of the draws.

    Returns:
        [R, K] means, in float64; NaN where no request that was drawn has a value.
    """
    values = values.double().cpu()
    known = values.isfinite().double()
    filled = values.nan_to_num(0.0)
    parts = [(counts @ filled) / (counts @ known) for counts in resample_counts(len(values), resamples, seed)]
    return torch.cat(parts)


def percentile_interval(draws: Tensor, level: float = 0.95) -> Tensor:
    """The middle of the draws: the percentile interval of a bootstrap (Efron 1979), without draws that are NaN.

    Args:
        draws: [R, ...] values of a statistic over resamples.
        level: Share of the draws within the interval.

    Returns:
        [2, ...] lower and upper end.

    Example:
        >>> percentile_interval(torch.arange(101.0), 0.9)
        tensor([ 5.0000, 95.0000], dtype=torch.float64)
    """
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return draws.double().nanquantile(tails, 0)
