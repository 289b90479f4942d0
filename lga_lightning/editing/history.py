"""What an editing session remembers of its edits: their keys, in no more room than the width of a key asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lga_lightning.covariance.solver import CovarianceSolver


def remember(earlier: Tensor | None, keys: Tensor) -> Tensor:
    """Keys of all edits so far, for methods that need no more of them than Kp Kp^T = F^T F.

    Args:
        earlier: Factor F [m, d_in] of the edits before; None for none.
        keys: Keys of the latest edits, [n, d_in].

    Returns:
        F [at most d_in, d_in] in float64: the keys themselves, or, of more keys than d_in, the triangle of their QR decomposition.
    """
    factor = keys.double() if earlier is None else torch.cat([earlier.to(keys.device).double(), keys.double()])
    return factor if len(factor) <= factor.shape[1] else torch.linalg.qr(factor, mode="r").R


def solve_with_history(
    covariance: CovarianceSolver,
    model: PreTrainedModel,
    layer: int,
    keys: Tensor,
    weight: float,
    earlier: Tensor | None = None,
) -> Tensor:
    """Products C~^-1 k with C~ = lambda C + Kp Kp^T, by Woodbury's identity: a system of m, not of d_in.

    What an edit then disturbs least is what the layer knows and what the session has written (arXiv 2605.26670).

    Args:
        covariance: C.
        model: The model that C is of.
        layer: Index of the block.
        keys: Keys k [n, d_in].
        weight: Weight lambda of C.
        earlier: F [m, d_in] of :func:`remember`; None for no earlier edits.

    Returns:
        [n, d_in] in float64.
    """
    solved = covariance.solve(model, layer, keys.double()) / weight
    if earlier is None:
        return solved
    rows = earlier.to(solved)
    return with_more_rows(solved, rows, covariance.solve(model, layer, rows) / weight)


def with_more_rows(solved: Tensor, rows: Tensor, solved_rows: Tensor) -> Tensor:
    """Products (A + F^T F)^-1 k from products with A^-1: A^-1 k - A^-1 F^T (I + F A^-1 F^T)^-1 F A^-1 k.

    Args:
        solved: A^-1 k for keys k, [n, d_in].
        rows: F [m, d_in].
        solved_rows: A^-1 F^T, a row for each of F, [m, d_in].

    Returns:
        [n, d_in].
    """
    inner = torch.eye(len(rows)).to(solved) + rows @ solved_rows.T
    return solved - torch.linalg.solve(inner, rows @ solved.T).T @ solved_rows
