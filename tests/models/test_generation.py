"""What the model says by itself, against picking the most likely token one at a time."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing import RROME
from lga_lightning.exceptions import ModelError
from lga_lightning.locators import EditForecast
from lga_lightning.models.generation import greedy_answers
from tests.editing.helpers import QUICK
from tests.helpers.generation import TOKENS, plain
from tests.helpers.models import requests, tiny_model


def test_greedy_answers_in_a_batch_are_those_one_by_one(family, tokenizer):
    model = tiny_model(family, torch.float64)
    prompts = [request.prompt for request in requests(8)]
    expected = [plain(model, tokenizer, prompt) for prompt in prompts]
    assert greedy_answers(model, tokenizer, prompts, TOKENS) == expected


def test_the_models_generation_config_does_not_matter(tokenizer):
    model = tiny_model("llama", torch.float64)
    prompts = [request.prompt for request in requests(4)]
    expected = greedy_answers(model, tokenizer, prompts, TOKENS)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    assert greedy_answers(model, tokenizer, prompts, TOKENS) == expected


def test_a_model_of_nan_is_named_before_a_text_is_drawn(tokenizer):
    model = tiny_model("llama")
    model.lm_head.weight.data[5] = torch.nan
    with pytest.raises(
        ModelError, match=r"no text can be drawn from it. It computes in torch.float32: check its weights"
    ):
        EditForecast(RROME(second_moment="sampled", **QUICK)).score(model, tokenizer, requests(2))
