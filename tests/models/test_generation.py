"""What the model says by itself, against picking the most likely token one at a time."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lga_lightning.editing import RROME
from lga_lightning.exceptions import ModelError
from lga_lightning.locators import EditForecast
from lga_lightning.models.generation import greedy_answers, sample
from tests.editing.helpers import QUICK
from tests.helpers.generation import TOKENS, plain
from tests.helpers.models import requests, tiny_model


def test_greedy_answers_in_a_batch_are_those_one_by_one(family, tokenizer):
    model = tiny_model(family, torch.float64)
    prompts = [request.prompt for request in requests(8)]
    expected = [plain(model, tokenizer, prompt) for prompt in prompts]
    assert greedy_answers(model, tokenizer, prompts, TOKENS) == expected


PREFERENCES = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 2,
    "temperature": 0.1,
    "top_k": 2,
    "min_p": 0.5,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "sequence_bias": [[[5], 100.0]],
    "forced_eos_token_id": 2,
    "max_time": 1e-9,
    "return_dict_in_generate": True,
    "stop_strings": ["a"],
    "num_return_sequences": 2,
}


@pytest.mark.parametrize("within_peft", [False, True])
def test_the_models_generation_config_does_not_matter(tokenizer, within_peft):
    model = tiny_model("llama", torch.float64)
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj"])) if within_peft else model
    config = model.generation_config
    expected = sample(model, tokenizer, rows=2, length=12, seed=0)
    for name, value in PREFERENCES.items():
        setattr(config, name, value)
        assert sample(model, tokenizer, rows=2, length=12, seed=0) == expected, name
    assert model.generation_config is config
    assert {name: getattr(config, name) for name in PREFERENCES} == PREFERENCES
    assert [len(text) for text in expected] == [12, 12]
    assert not any(2 in text for text in expected)  # the tokens that end a text are heeded


def test_a_model_of_nan_is_named_before_a_text_is_drawn(tokenizer):
    model = tiny_model("llama")
    model.lm_head.weight.data[5] = torch.nan
    with pytest.raises(
        ModelError, match=r"no text can be drawn from it. It computes in torch.float32: check its weights"
    ):
        EditForecast(RROME(second_moment="sampled", **QUICK)).score(model, tokenizer, requests(2))
