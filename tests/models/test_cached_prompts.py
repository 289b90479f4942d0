"""Prompts in the cache: what is read and generated behind them equals whole passes, one prompt at a time."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from lga_lightning.exceptions import ModelError
from lga_lightning.models.cached_prompts import CachedPrompts, unedited
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import IGNORE, encode_answers
from lga_lightning.models.generation import answer_prefixes, full_stops, greedy_answers
from tests.helpers.generation import TOKENS, plain
from tests.helpers.models import requests, tiny_model, tiny_tokenizer

EXACT = {"rtol": 0, "atol": 1e-9}


@pytest.mark.usefixtures("exact")
def test_answers_are_read_as_in_whole_passes(family, tokenizer):
    model, data = tiny_model(family, torch.float64), requests(6)
    prompts = CachedPrompts(model, tokenizer, [request.prompt for request in data])
    rows = [0, 1, 2, 3, 4, 5, 2, 0]  # a prompt may have several answers
    texts = [request.target_new for request in data] + ["a", data[0].target_old]
    answers = [tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts]
    for _ in range(2):  # the cache stays as it was
        tokens, labels, nll = prompts.predictions(rows, answers)
        for row, answer, got, label, loss in zip(rows, answers, tokens, labels, nll, strict=True):
            ids = tokenizer(data[row].prompt)["input_ids"]
            logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
            assert label[label != IGNORE].tolist() == answer
            assert got[: len(answer)].tolist() == logits.argmax(-1).tolist()
            expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
            torch.testing.assert_close(loss, expected, **EXACT)


def test_parts_of_a_long_list_of_answers(llama, tokenizer, monkeypatch):
    data = requests(6)
    prompts = CachedPrompts(llama, tokenizer, [request.prompt for request in data])
    answers = [tokenizer(" " + request.target_new)["input_ids"] for request in data]
    whole = prompts.predictions(range(6), answers)
    monkeypatch.setattr("lga_lightning.models.cached_prompts.MOST_LOGITS", 1)
    for part, expected in zip(prompts.predictions(range(6), answers), whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_every_row_is_run_with_its_own_edit(llama, tokenizer):
    seen = []

    @contextmanager
    def attach(rows):
        seen.append(rows.tolist())
        yield

    prompts = CachedPrompts(llama, tokenizer, ["Rome is", "The capital of France is", "Oslo"], attach)
    prompts.continuations(2, lambda row, text: row == 0)
    prompts.predictions([1, 2], [[5, 6], [7]])
    assert seen == [[0, 1, 2], [1, 2], [1]]


def test_a_finished_row_leaves_and_the_others_go_on(tokenizer):
    model, texts = tiny_model("llama", torch.float64), [request.prompt for request in requests(8)]
    expected = [CachedPrompts(model, tokenizer, [text]).continuations(9, lambda *_: False)[0] for text in texts]
    lengths, counts = [1, 9, 3, 2, 5, 9, 7, 4], [0] * 8

    def finished(row, text):
        counts[row] += 1
        return counts[row] == lengths[row]

    got = CachedPrompts(model, tokenizer, texts).continuations(9, finished)
    for text, whole, length in zip(got, expected, lengths, strict=True):
        assert whole.startswith(text.rstrip("\ufffd"))
        assert text == whole or length < 9


def test_end_tokens_of_the_generation_config_end_an_answer(tokenizer):
    model, prompt = tiny_model("llama", torch.float64), "Rome is in"
    said = CachedPrompts(model, tokenizer, [prompt])._logits[0, -1].argmax().item()
    for ends in (said, [2, said]):
        model.generation_config.eos_token_id = ends
        assert greedy_answers(model, tokenizer, [prompt]) == [""]


def test_generation_ends_where_the_models_positions_end():
    tokenizer, model, said = tiny_tokenizer(), tiny_model("gpt2"), [0, 0]  # 64 positions

    def finished(row, text):
        said[row] += 1
        return False

    prompts = CachedPrompts(model, tokenizer, ["b" * 60, "Rome"], unedited)
    length = int(prompts._lengths[1])
    model.generation_config.eos_token_id = tokenizer.eos_token_id = None
    prompts.continuations(100, finished)
    assert said == [4, 64 - length]


def test_full_stops():
    finished = full_stops([1, 2])
    assert finished(0, " a.")
    assert finished(0, "\n")
    assert not finished(1, "St.")
    assert finished(1, ".")
    assert full_stops([3])(0, " ...")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Paris. It", ["Paris", "Paris. It"]),
        ("Paris", ["Paris"]),
        (" Washington, D.C.", ["Washington, D", "Washington, D.C"]),
        ("\nParis", [""]),
        (". x", ["", ". x"]),
        ("", [""]),
    ],
)
def test_answer_prefixes(text, expected):
    assert answer_prefixes(text) == expected


def test_one_prompt_is_like_many(tokenizer):
    model, texts = tiny_model("gemma3_text", torch.float64), [request.prompt for request in requests(5)]
    assert greedy_answers(model, tokenizer, texts, TOKENS) == [plain(model, tokenizer, text) for text in texts]


def test_a_model_that_cannot_look_past_padding_is_refused(tokenizer):
    """It says token 0 behind every padding else, as NaN is the most likely."""
    texts = ["Rome is", "The capital of France is"]
    model = tiny_model("gemma2", torch.float64)
    with pytest.raises(ModelError, match=r"in float64 gives NaN .* attention \('eager'\) .* Load it in float32"):
        CachedPrompts(model, tokenizer, texts)
    batch = encode_answers(tokenizer, texts, ["a", "a"], [7, 24])
    with pytest.raises(ModelError, match="in float64 gives NaN"):
        CachedSuffix(model, batch)
    CachedPrompts(model, tokenizer, texts[:1])
    with torch.no_grad():
        model.lm_head.weight[0] = torch.nan  # broken for another reason
    assert CachedPrompts(model, tokenizer, texts).predictions([0], [[3, 4]])[2].isnan().all()
