"""Tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def largest(values: Iterable[float]) -> float:
    """The largest of some numbers: NaN where one is NaN, 0 where there is none.

    Example:
        >>> largest([0.5, float("nan")]), largest([])
        (nan, 0.0)
    """
    known = [*values]
    return torch.tensor(known, dtype=torch.float64).max().item() if known else 0.0
