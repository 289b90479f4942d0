"""Activation checkpointing changes no score, and blocks do run again."""

from __future__ import annotations

import pytest
import torch

from lga_lightning import LGA, RROME, EditForecast, ValueGradient
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.checkpointing import enable_checkpointing_
from lga_lightning.models.hooks import frozen
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])


@FAMILIES
@pytest.mark.parametrize("locator", [EditForecast, LGA, ValueGradient])
def test_scores_are_the_same(locator, family, tokenizer):
    asked, runs = requests(3), [0, 0]
    plain, checkpointed = tiny_model(family), tiny_model(family)
    enable_checkpointing_(checkpointed)
    for number, model in enumerate((plain, checkpointed)):

        def count(*_: object, number: int = number) -> None:
            runs[number] += 1

        edit_site(model, 2).module.register_forward_pre_hook(count)
    scorer = locator().for_editor(RROME(**FAST_METHOD))
    expected, found = (scorer.score(model, tokenizer, asked).values for model in (plain, checkpointed))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert runs[1] > runs[0]


@FAMILIES
def test_edits_are_the_same(family, tokenizer):
    deltas = []
    for enabled in (False, True):
        model = tiny_model(family)
        if enabled:
            enable_checkpointing_(model)
        deltas.append(RROME(**FAST_METHOD).compute(model, tokenizer, requests(2), [1]))
    (name,) = deltas[0].updates
    torch.testing.assert_close(deltas[1].matrix(name), deltas[0].matrix(name), rtol=1e-5, atol=1e-7)


def test_blocks_are_as_they_were(llama):
    enable_checkpointing_(llama)
    with frozen(llama):
        assert all("forward" in vars(block) for block in blocks(llama))
    assert not any("forward" in vars(block) for block in blocks(llama))
