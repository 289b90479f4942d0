"""Telling models of one name apart."""

from __future__ import annotations

import torch

from lga_lightning.models.weights import may_be_the_same, weights_hash, weights_mark
from tests.helpers.models import tiny_model


def test_every_change_of_a_weight_shows_and_undoing_it_does_not():
    model = tiny_model("llama")
    before = weights_hash(model)
    assert weights_hash(model) == before == weights_hash(tiny_model("llama"))
    for parameter in (next(model.parameters()), list(model.parameters())[-1]):
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[3] += 1e-3
            assert weights_hash(model) != before
            parameter.copy_(kept)
        assert weights_hash(model) == before
    list(model.parameters())[-1].data = list(model.parameters())[-1].data + 1
    assert weights_hash(model) != before


def test_dtypes_are_not_compared():
    model = tiny_model("llama")
    single, half = weights_mark(model), weights_mark(model.to(torch.bfloat16))
    assert (single.split()[0], half.split()[0]) == ("float32", "bfloat16")
    assert single.split()[1] != half.split()[1]
    assert may_be_the_same(single, half)
