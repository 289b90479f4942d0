"""Requests without an old target, given to a locator by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lga_lightning.editing import RROME
from lga_lightning.exceptions import DataError
from lga_lightning.locators import LGA, EditForecast, ValueGradient
from lga_lightning.locators.old_answers import with_old_targets
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests


@pytest.mark.parametrize("locator", [LGA("mlp_out"), ValueGradient(), EditForecast(RROME(**FAST_METHOD))])
def test_the_models_own_answer_takes_its_place(locator, llama, tokenizer):
    asked = requests(2)
    open_requests = [replace(request, target_old=None) for request in asked]
    answered = with_old_targets(llama, tokenizer, open_requests)
    assert None not in answered
    found, expected = (locator.score(llama, tokenizer, batch) for batch in (open_requests, answered))
    assert torch.equal(found.values.nan_to_num(), expected.values.nan_to_num())


def test_an_answer_that_cannot_take_its_place_is_named(llama, tokenizer):
    request = replace(requests(1)[0], target_old=None)
    (answered,) = with_old_targets(llama, tokenizer, [request])
    same = replace(request, target_new=answered.target_old)
    with pytest.raises(DataError, match=r"The request 'The capital of France is' has no `target_old`"):
        LGA().score(llama, tokenizer, [same])
