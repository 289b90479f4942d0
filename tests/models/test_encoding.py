"""Prompts and answers as tokens, and that padding changes nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import CanineTokenizer

from lga_lightning.data.requests import end_of_subject
from lga_lightning.exceptions import ModelError
from lga_lightning.models.encoding import (
    IGNORE,
    EncodedAnswers,
    encode_answers,
    encode_subjects,
    target_ids,
)
from lga_lightning.models.likelihood import answer_logits, answer_nll
from lga_lightning.models.loading import load_tokenizer
from tests.helpers.models import requests, tiny_model
from tests.helpers.tokenizers import KINDS, subject_last_token, toy_tokenizer

EXACT = {"rtol": 0, "atol": 1e-9}
PROMPTS = ["The capital of France is", "Rome", "Zoë lives in Malmö, the city of "]
ANSWERS = ["Paris", " Italy and Rome", "東京  "]
SUBJECTS = ["France", "Rome", "Malmö"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def decoded(tokenizer, ids) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize("answer", ["Paris", "the French language", "東京", "🇫🇷", "a", "."])
def test_a_target_has_one_leading_space_and_no_special_tokens(kind, bos, eos, answer):
    tokenizer = toy_tokenizer(kind, bos=bos, eos=eos)
    ids = target_ids(tokenizer, answer)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[0].startswith(("Ġ", "▁"))
    assert "".join(tokens).count("▁") + "".join(tokens).count("Ġ") == 1 + answer.count(" ")
    assert not set(ids) & set(tokenizer.all_special_ids)
    # the anchor takes the place of a prompt: some decoders drop a space at a text's start
    anchor = tokenizer("Rome", add_special_tokens=False)["input_ids"]
    assert decoded(tokenizer, anchor + ids) == f"Rome {answer}"
    for given in (f" {answer}", f"  {answer}", f"{answer} ", f"\n{answer}\n"):
        assert target_ids(tokenizer, given) == ids


@pytest.mark.parametrize("bos", [False, True])
def test_rows_are_prompt_and_answer_side_by_side(kind, bos):
    tokenizer = toy_tokenizer(kind, bos=bos)
    batch = encode_answers(tokenizer, PROMPTS, ANSWERS)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        head = tokenizer(prompt.rstrip())["input_ids"]
        tail = target_ids(tokenizer, answer)
        length, width = len(head) + len(tail), len(tail)
        assert batch.input_ids[row, :length].tolist() == head + tail
        assert not batch.input_ids[row, length:].any()
        assert batch.labels[row, :width].tolist() == tail
        assert (batch.labels[row, width:] == IGNORE).all()
        # the token after each position is the one that is predicted there
        positions = batch.positions[row, :width]
        assert batch.input_ids[row, positions + 1].tolist() == tail
        assert positions[0] == len(head) - 1
        assert not batch.positions[row, width:].any()
        text = tokenizer.decode(head + tail, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert text == f"{prompt.rstrip()} {answer.strip()}"
    assert batch.input_ids.shape[1] == max(batch.positions.max().item() + 2, 1)
    assert (batch.subject == -1).all()
    assert len(batch) == 3


def test_the_boundary_is_not_merged(kind):
    tokenizer = toy_tokenizer(kind)
    # "(" + "Rome" would be other tokens than "( Rome"; the prompt's own space is dropped, the answer brings one
    with_space, without = encode_answers(tokenizer, ["Paris (", "Paris ( "], ["Rome", "Rome"]).input_ids
    assert with_space.tolist() == without.tolist()
    assert with_space.tolist() == tokenizer("Paris (")["input_ids"] + target_ids(tokenizer, "Rome")


def test_an_eos_behind_the_prompt_is_dropped(kind):
    plain = encode_answers(toy_tokenizer(kind, bos=True), PROMPTS, ANSWERS, [24, 4, 18])
    with_eos = encode_answers(toy_tokenizer(kind, bos=True, eos=True), PROMPTS, ANSWERS, [24, 4, 18])
    for name in ("input_ids", "positions", "labels", "subject"):
        assert torch.equal(getattr(plain, name), getattr(with_eos, name))


@pytest.mark.parametrize("bos", [False, True])
def test_subjects(kind, bos):
    tokenizer = toy_tokenizer(kind, bos=bos)
    ends = [end_of_subject(prompt, subject) for prompt, subject in zip(PROMPTS, SUBJECTS, strict=True)]
    expected = [subject_last_token(tokenizer, *pair) for pair in zip(PROMPTS, SUBJECTS, strict=True)]
    assert encode_answers(tokenizer, PROMPTS, ANSWERS, ends).subject.tolist() == expected
    batch = encode_subjects(tokenizer, PROMPTS, ends)
    assert batch.subject.tolist() == expected
    assert batch.positions.tolist() == [[index] for index in expected]
    assert (batch.labels == IGNORE).all()
    for prompt, index, row in zip(PROMPTS, expected, batch.input_ids, strict=True):
        assert row[: index + 1].tolist() == tokenizer(prompt)["input_ids"][: index + 1]
        assert not row[index + 1 :].any()
    assert batch.input_ids.shape[1] == max(expected) + 1


def test_as_many_answers_as_prompts(tokenizer):
    with pytest.raises(ValueError, match="zip"):
        encode_answers(tokenizer, ["Rome is in", "Oslo is in"], ["Italy"])


def test_tokenizers_without_offsets_are_refused(tmp_path):
    slow = CanineTokenizer()
    slow.save_pretrained(tmp_path)
    for use in (
        lambda: encode_answers(slow, ["Rome is"], ["a"]),
        lambda: encode_subjects(slow, ["Rome is"], [4]),
        lambda: load_tokenizer(tmp_path),
    ):
        with pytest.raises(ModelError, match=r"\(CanineTokenizer\) has no character offsets"):
            use()


def test_to_moves_every_tensor(tokenizer):
    batch = encode_answers(tokenizer, PROMPTS, ANSWERS).to("meta")
    assert isinstance(batch, EncodedAnswers)
    assert {t.device.type for t in (batch.input_ids, batch.positions, batch.labels, batch.subject)} == {"meta"}


@pytest.mark.usefixtures("exact")
def test_padding_changes_nothing(family, tokenizer):
    model = tiny_model(family, torch.float64)
    prompts, answers = [r.prompt for r in requests()], [r.target_new for r in requests()]
    batch = encode_answers(tokenizer, prompts, answers)
    together = answer_logits(model, batch)
    assert together.dtype == torch.float64
    read = batch.as_read()
    assert read.input_ids.shape[1] == batch.input_ids.shape[1] - 1
    torch.testing.assert_close(answer_logits(model, read), together, **EXACT)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        alone = encode_answers(tokenizer, [prompt], [answer])
        width = alone.labels.shape[1]
        logits = answer_logits(model, alone)[0]
        torch.testing.assert_close(together[row, :width], logits, **EXACT)
        plain = model(input_ids=alone.input_ids).logits[0]
        torch.testing.assert_close(logits, plain[-width - 1 : -1], **EXACT)
    reference = [
        torch.nn.functional.cross_entropy(logits[labels != IGNORE], labels[labels != IGNORE])
        for logits, labels in zip(together, batch.labels, strict=True)
    ]
    torch.testing.assert_close(answer_nll(together, batch.labels), torch.stack(reference), **EXACT)


def test_logits_are_float32_or_better(tokenizer):
    batch = encode_answers(tokenizer, PROMPTS[:1], ANSWERS[:1])
    assert answer_logits(tiny_model("llama", torch.bfloat16), batch).dtype == torch.float32
