"""Gram products: inner products between weight gradients that are never materialised.

For a linear map y = W a over T tokens, dL/dW = sum_t b_t a_t^T with b_t = dL/dy_t. The inner product of two such
gradients needs neither of them: <g, g'> = sum_tu (a_t . a'_u)(b_t . b'_u), two T x T' Gram matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lga_lightning.utils.tensors import at_least_float32

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
