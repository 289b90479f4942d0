"""Tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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


def with_first(tensor: Tensor, output: Any) -> Any:
    """A module's output with another tensor in the first place.

    Args:
        tensor: The tensor.
        output: The output: a tuple or a list of which the tensor takes the first place, or what it takes the place of.
    """
    if isinstance(output, list):
        return [tensor, *output[1:]]
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor
