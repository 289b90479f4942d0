"""Losses of many rows, piece by piece: what a piece keeps for its gradient is gone before the next begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_TOKENS = 2**14
"""Tokens of a pass that is kept for its gradient, padding included; a single text may have more."""


def row_by_row(function: Callable[[Tensor], tuple[Tensor, Tensor]], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What a function makes of rows that have nothing to do with each other, with its gradient taken at once.

    Nothing is kept for a later backward pass, and nothing computed again in it, but for a gradient of the inputs' size.

    Args:
        function: Takes inputs [N, ...], and returns values [N] and something without a gradient.
        inputs: [N, ...].

    Returns:
        The values, through which gradients flow to the inputs, once; and what has none.
    """
    values, other = _AtOnce.apply(inputs, function)
    return values, other


class _AtOnce(torch.autograd.Function):
    """See :func:`row_by_row`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        with torch.set_grad_enabled(wanted):
            leaf = inputs.detach().requires_grad_(wanted)
            values, other = function(leaf)
            if wanted:
                ctx.save_for_backward(*torch.autograd.grad(values.sum(), leaf))
        ctx.mark_non_differentiable(other)
        return values.detach(), other

    @staticmethod
    def backward(ctx: Any, of_values: Tensor, of_other: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        weights = of_values.to(gradient.device).view(-1, *[1] * (gradient.ndim - 1))
        return (gradient * weights).to(gradient), None
