"""Gram products against gradients that are written out."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.locators import gram
from lga_lightning.locators.gram import matrix_gram, norm_gram


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(3, 20, 30), (40, 5, 6), (1, 1, 1)])
@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_matrix_gram_both_routes(monkeypatch, tokens, d_in, d_out, bias, chunk):
    monkeypatch.setattr(gram, "CHUNK", chunk)
    a, b = torch.randn(6, tokens, d_in).double(), torch.randn(6, tokens, d_out).double()
    grads = torch.einsum("nto,nti->noi", b, a).flatten(1)
    if bias:
        grads = torch.cat([grads, b.sum(1)], dim=1)
    expected = torch.stack([grads[i : i + 2] @ grads[i : i + 2].T for i in (0, 2, 4)])
    torch.testing.assert_close(matrix_gram(a, b, bias), expected, rtol=1e-12, atol=1e-12)


def test_bfloat16_is_multiplied_in_float32():
    a, b = torch.randn(2, 5, 8).bfloat16(), torch.randn(2, 5, 9).bfloat16()
    assert matrix_gram(a, b).dtype == torch.float32
    torch.testing.assert_close(matrix_gram(a, b), matrix_gram(a.float(), b.float()), rtol=0, atol=0)


def test_norm_gram():
    x, b = torch.randn(4, 5, 8).double(), torch.randn(4, 5, 8).double()
    grads = torch.cat([(x * b).sum(1), b.sum(1)], dim=1)
    expected = torch.stack([grads[i : i + 2] @ grads[i : i + 2].T for i in (0, 2)])
    torch.testing.assert_close(norm_gram(x, b, bias=True), expected)
