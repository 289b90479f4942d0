"""Answers whose logits would be too many are read in pieces, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from lga_lightning.editing import FTM, RROME, UltraEdit, target_value
from lga_lightning.locators import LGA, EditForecast
from lga_lightning.locators.gradients import encode_pairs, gradient_grams
from lga_lightning.models import answers
from lga_lightning.models.answers import read_answers
from lga_lightning.models.architecture import blocks
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import IGNORE
from lga_lightning.models.hooks import added_to_output
from tests.helpers.cli import FAST_METHOD
from tests.helpers.edits import random_edits, token_scores
from tests.helpers.families import VOCABULARY
from tests.helpers.models import requests, tiny_model

EXACT = {"rtol": 1e-9, "atol": 1e-9}
TOKENS = 5  # of a piece


@contextmanager
def in_pieces(model: PreTrainedModel) -> Iterator[list[int]]:
    """Within the block, all is read in pieces. The list holds the number of tokens of every pass to the logits."""
    seen: list[int] = []
    head = model.get_output_embeddings()
    with (
        pytest.MonkeyPatch.context() as patch,
        head.register_forward_hook(lambda module, args, output: seen.append(output.shape[:-1].numel())),
    ):
        patch.setattr(answers, "MOST_LOGITS", 0)
        patch.setattr(answers, "PIECE", TOKENS * VOCABULARY + 1)
        patch.setattr(target_value, "MOST_TOKENS", 0)
        patch.setattr(target_value, "PIECE", 20)
        yield seen


@pytest.mark.usefixtures("exact")
def test_every_family_is_read_as_a_whole(family, tokenizer):
    model, data = tiny_model(family, torch.float64), requests(4)
    batch = encode_pairs(tokenizer, data)
    counted = batch.labels != IGNORE

    def read(run: Callable | None = None) -> list[Tensor]:
        move = torch.zeros(model.config.hidden_size, dtype=model.dtype, requires_grad=True)
        with added_to_output(blocks(model)[0], lambda inputs: move.expand_as(inputs)):
            found = read_answers(model, batch) if run is None else run()
        (gradient,) = torch.autograd.grad((found.nll * torch.arange(1, 9)).sum() + found.first[:, 7].sum(), move)
        return [found.token_nll.detach(), found.nll.detach(), found.first.detach(), found.predicted[counted], gradient]

    expected = read()
    with in_pieces(model) as seen:
        found = read()
        suffix = CachedSuffix(model, batch).read()
    assert max(seen) <= max(TOKENS, len(batch))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    torch.testing.assert_close(suffix.token_nll, expected[0], **EXACT)
    assert suffix.predicted[counted].equal(expected[3])


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.usefixtures("exact")
def test_a_model_within_peft_is_read_as_a_whole(family, tokenizer):
    names = {"llama": "down_proj", "gpt2": "c_proj", "opt": "fc2"}
    settings = LoraConfig(target_modules=[names[family]], init_lora_weights=False, fan_in_fan_out=family == "gpt2")
    model = get_peft_model(tiny_model(family, torch.float64), settings).eval()
    batch = encode_pairs(tokenizer, requests(4))
    with torch.no_grad():
        expected = read_answers(model, batch)
        with in_pieces(model):
            found = read_answers(model, batch)
    torch.testing.assert_close(found.token_nll, expected.token_nll, **EXACT)


DATA = requests(4)


def edited(kind: type, **settings: object) -> Callable:
    def run(model, tokenizer):
        return kind(**settings).compute(model, tokenizer, DATA, 1).matrix("model.layers.1.mlp.down_proj")

    return run


WAYS: dict[str, Callable] = {
    "LGA": lambda *model: LGA("mlp", loss="text").score(*model, DATA).values,
    "gradients": lambda model, tokenizer: gradient_grams(model, encode_pairs(tokenizer, DATA), "value")[0],
    "forecast": lambda *model: EditForecast().for_editor(RROME(**FAST_METHOD)).score(*model, DATA).values,
    "search": edited(RROME, **FAST_METHOD),
    "fine-tuning": edited(FTM, steps=2),
    "UltraEdit": edited(UltraEdit, warmup=0),
    "scores": lambda *model: token_scores(*model, DATA, random_edits(model[0], 4)),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_changes(way, tokenizer):
    model = tiny_model("llama", torch.float64)
    expected = WAYS[way](model, tokenizer)
    with in_pieces(model) as seen:
        found = WAYS[way](model, tokenizer)
    torch.testing.assert_close(found, expected, **EXACT, equal_nan=True)
    assert TOKENS in seen
