"""Tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()
