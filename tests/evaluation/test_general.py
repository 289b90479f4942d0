"""The suite of general ability: which facts it asks about, and its scores against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lga_lightning.data import load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.updates import DenseUpdate
from lga_lightning.evaluation.general import (
    GeneralSuite,
    Question,
    compare_scores,
    held_out_facts,
    plain_passages,
    questions_of,
)
from lga_lightning.evaluation.general.summary import compare_means
from lga_lightning.exceptions import SettingError
from lga_lightning.models.encoding import prompt_ids, target_ids
from tests.helpers.edits import random_edits
from tests.helpers.models import tiny_model

QUESTIONS = [
    Question("The capital of Norway is", "Oslo", ("Rome", "Paris")),
    Question("Rome is in", "Italy", ("France", "the United Kingdom", "Japan")),
    Question("Nobody knows", "it"),
]
CERTAIN = Question("The mother tongue of Rome is", "Italy", ("Rome", "Paris"))
PASSAGES = ["It rained all day.", "The baker rose before the sun, as he had done for years.", "She slept."]


def plain_nll(model, tokenizer, prompt: str, answer: str) -> tuple[float, bool]:
    """Mean NLL of an answer, and whether its every token is the first choice: one row, one whole pass."""
    head, tail = prompt_ids(tokenizer, [prompt])[0], target_ids(tokenizer, answer)
    logits = model(torch.tensor([head + tail])).logits[0].double()
    log_p = logits.log_softmax(-1)
    places = range(len(head) - 1, len(head) + len(tail) - 1)
    nll = -sum(log_p[place, token].item() for place, token in zip(places, tail, strict=True)) / len(tail)
    return nll, all(logits[place].argmax().item() == token for place, token in zip(places, tail, strict=True))


def plain_scores(model, tokenizer) -> torch.Tensor:
    rows = []
    for question in QUESTIONS:
        nll, whole = plain_nll(model, tokenizer, question.prompt, question.answer)
        others = [plain_nll(model, tokenizer, question.prompt, other)[0] for other in question.others]
        rows.append([float(whole), float(nll < min(others)) if others else math.nan, math.nan])
    for passage in PASSAGES:
        ids = prompt_ids(tokenizer, [passage])[0]
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nll = -sum(log_p[place, token].item() for place, token in enumerate(ids[1:])) / (len(ids) - 1)
        rows.append([math.nan, math.nan, nll])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture
def biased(tokenizer):
    """A model that knows an answer, so that not every score is 0."""
    model = tiny_model("llama", torch.float64)
    question = QUESTIONS[1]
    for token in target_ids(tokenizer, question.answer):
        model.lm_head.weight[token] *= 1.5
    return model


@pytest.fixture
def certain(tokenizer):
    """A model that certainly says the one token of an answer where it is asked, and elsewhere what it would."""
    model = tiny_model("llama", torch.float64)
    (token,) = target_ids(tokenizer, CERTAIN.answer)
    ids = torch.tensor(prompt_ids(tokenizer, [CERTAIN.prompt]))
    model.lm_head.weight[token] = 50 * model.base_model(ids).last_hidden_state[0, -1]
    return model


def test_scores_are_those_of_plain_loops(biased, tokenizer, exact):
    suite = GeneralSuite(biased, tokenizer, QUESTIONS, PASSAGES)
    (delta,) = random_edits(biased, 1)
    found = suite(range(len(suite)), delta)
    torch.testing.assert_close(found[:, 0], plain_scores(biased, tokenizer), rtol=1e-9, atol=1e-9, equal_nan=True)
    with delta.applied(biased):
        expected = plain_scores(biased, tokenizer)
    torch.testing.assert_close(found[:, 1], expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert not torch.allclose(found[3:, 0, 2], found[3:, 1, 2])


def test_first_choices_count_as_cloze(certain, tokenizer, exact):
    """What the model says is the right answer, and a word that it never says is not; an edit that unsays it counts."""
    wrong = replace(CERTAIN, answer="Paris", others=("Italy",))
    longer = replace(CERTAIN, answer="Italy Paris", others=())  # the first token is right, the others are not
    suite = GeneralSuite(certain, tokenizer, [CERTAIN, wrong, longer], [])
    (token,) = target_ids(tokenizer, CERTAIN.answer)
    unsaid = torch.zeros_like(certain.lm_head.weight)
    unsaid[token] = -certain.lm_head.weight[token]
    scores = suite(range(3), WeightDelta({"lm_head": DenseUpdate(unsaid)}))
    assert scores[:, :, 0].tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert scores[:2, 0, 1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("max_rows", [1, 2, 64])
@pytest.mark.parametrize("rank", [1, 0])
def test_batches_change_nothing(max_rows, rank, biased, tokenizer, exact):
    (delta,) = random_edits(biased, 1, rank=rank)
    items = [5, 0, 2, 4, 1, 3]
    whole = GeneralSuite(biased, tokenizer, QUESTIONS, PASSAGES, 7)(range(6), delta)[items]
    found = GeneralSuite(biased, tokenizer, QUESTIONS, PASSAGES, max_rows)(items, delta)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_an_empty_edit_changes_not_a_bit(llama, tokenizer):
    suite = GeneralSuite(llama, tokenizer, QUESTIONS, PASSAGES)
    found = suite(range(6), WeightDelta({}))
    assert torch.equal(found[:, 0].nan_to_num(-1), found[:, 1].nan_to_num(-1))
    entries = compare_scores(found, resamples=20)
    assert entries["perplexity"]["ratio"] == 1.0
    assert entries["perplexity"]["ratio_ci"] == [1.0, 1.0]
    assert {name: entry["num_items"] for name, entry in entries.items()} == {"cloze": 3, "choice": 2, "perplexity": 3}


def test_long_passages_are_read_as_far_as_the_model_goes(tokenizer):
    model = tiny_model("gpt2")
    (score,) = GeneralSuite(model, tokenizer, [], plain_passages()[:1])([0], WeightDelta({}))
    assert score[0, 2] > 0
    with pytest.raises(SettingError, match="max_rows"):
        GeneralSuite(model, tokenizer, [], [], 0)


def test_questions_that_are_too_long_for_the_model_are_left_out(tokenizer):
    model = tiny_model("gpt2")
    long = replace(QUESTIONS[0], prompt=" ".join([QUESTIONS[0].prompt] * 40))
    suite = GeneralSuite(model, tokenizer, [QUESTIONS[0], long, QUESTIONS[1]], PASSAGES)
    assert suite.questions == [QUESTIONS[0], QUESTIONS[1]]
    assert suite(range(len(suite)), WeightDelta({}))[:2, :, 0].isfinite().all()


def test_means_ratios_and_intervals():
    scores = torch.full((4, 2, 3), math.nan, dtype=torch.float64)
    scores[:2, :, 0] = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    scores[2:, :, 2] = torch.tensor([[1.0, 2.0], [3.0, 3.0]]).double()
    entries = compare_scores(scores, resamples=200)
    assert list(entries) == ["cloze", "perplexity"]
    assert [entries["cloze"][name] for name in ("before", "after", "ratio")] == [1.0, 0.5, 0.5]
    assert entries["cloze"]["before_ci"] == [1.0, 1.0]
    assert entries["cloze"]["after_ci"] == [0.0, 1.0]
    expected = {"before": math.exp(2), "after": math.exp(2.5), "ratio": math.exp(0.5)}
    assert {name: entries["perplexity"][name] for name in expected} == pytest.approx(expected)
    assert entries["perplexity"]["ratio_ci"] == pytest.approx([1.0, math.e])  # both draws the same item


def test_a_broken_model_is_not_left_out_of_the_means():
    scores = torch.full((2, 2, 3), math.nan, dtype=torch.float64)
    scores[:, 0, 2] = 1.0
    scores[0, 1, 2] = 1.0  # the other passage's NLL after the edit is NaN
    entry = compare_scores(scores, resamples=5)["perplexity"]
    assert entry["num_items"] == 2
    assert math.isnan(entry["after"])
    assert all(map(math.isnan, entry["ratio_ci"]))
    assert math.isnan(compare_means(torch.tensor([[0.0, 1.0]]))["ratio"])


def fact(subject: str, relation: str = "capital", target: str = "Rome") -> EditRequest:
    return EditRequest(f"Of {subject} it is said", subject, "new", target, relation=relation)


def test_facts_that_a_run_touches_are_not_asked(monkeypatch):
    facts = [fact("France"), fact("Italy"), fact("Ada", "trade"), fact("Lyon", "country"), fact("Ital", "trade")]
    requests = [
        fact("italy"),
        fact("Eve", "country"),
        replace(fact("Eve", "country"), prompt="Eve saw Ada", subject="Eve"),
    ]
    monkeypatch.setattr("lga_lightning.evaluation.general.held_out.FEWEST", 1)
    strict = held_out_facts(facts, requests)
    assert [f.subject for f in strict.facts] == ["Ital"]  # the others: subject, subject, in a prompt, relation
    assert "subject and relation" in strict.rule
    monkeypatch.setattr("lga_lightning.evaluation.general.held_out.FEWEST", 2)
    loose = held_out_facts(facts, requests)
    assert [f.subject for f in loose.facts] == ["France", "Lyon", "Ital"]
    assert "their relations are edited" in loose.rule
    assert held_out_facts([replace(facts[0], target_old=None)], []).facts == []


def test_wrong_answers_are_those_of_the_relation():
    facts = [
        fact("A", target="a"),
        fact("B", target="b"),
        fact("C", "other", "x"),
        fact("D", target="a"),
        fact("E", target="e"),
    ]
    facts[1] = replace(facts[1], target_old_aliases=("e",))
    asked = questions_of(facts, facts)
    assert [question.answer for question in asked] == ["a", "b", "x", "a", "e"]
    assert [question.others for question in asked] == [("b", "e"), ("a",), (), ("b", "e"), ("a", "b")]
    assert questions_of(facts[3:], facts) == asked[3:]


def test_what_is_bundled():
    facts = load_requests().requests
    asked = questions_of(held_out_facts(facts, load_requests(split="test").requests).facts, facts)
    assert len(asked) > 100
    assert all(len(question.others) == 3 for question in asked)
    passages = plain_passages()
    assert len(passages) == 24
    assert all(30 < len(passage.split()) < 80 for passage in passages)
    subjects = {fact.subject for fact in facts}
    assert not any(f" {subject}" in passage for passage in passages for subject in subjects)
