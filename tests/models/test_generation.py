"""What the model says by itself, against picking the most likely token one at a time."""

from __future__ import annotations

import torch

from lga_lightning.models.generation import greedy_answers
from tests.helpers.models import requests, tiny_model

TOKENS = 12


def plain(model, tokenizer, prompt):
    ids = tokenizer(prompt)["input_ids"]
    said = []
    for _ in range(TOKENS):
        token = model(torch.tensor([ids + said])).logits[0, -1].argmax().item()
        said.append(token)
        if token == tokenizer.eos_token_id or any(stop in tokenizer.decode(said) for stop in ("\n", ".")):
            break
    text = tokenizer.decode(said, skip_special_tokens=True)
    return text.split("\n")[0].split(".")[0].strip()


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
