"""Where a model's own answer ends, and whether it is right."""

from __future__ import annotations

import math

import pytest

from lga_lightning.evaluation.prompts import EvalPrompt
from lga_lightning.evaluation.responses import Response, own_words, passage_nll, respond
from lga_lightning.evaluation.results import compare_responses
from lga_lightning.models.cached_prompts import unedited
from tests.helpers.models import tiny_model


@pytest.mark.parametrize(
    ("said", "answers", "words", "right"),
    [
        (" Paris, of course. It", ("Paris",), "Paris, of course", 0.0),
        (" the  paris! .", ("Lyon", "Paris"), "the  paris!", 1.0),
        (" St. Louis. It is", ("St. Louis",), "St. Louis", 1.0),
        (" St. Paul. It is", ("St. Louis",), "St", 0.0),
        (" Washington, D.C.", ("Washington, D.C.", "Washington"), "Washington, D.C", 1.0),
        (" Washington. It.", ("Washington, D.C.", "Washington"), "Washington", 1.0),
        ("\nParis", ("Paris",), "", 0.0),
        ("\u5df4\u9ece\u3002\u5b83", ("\u5df4\u9ece",), "\u5df4\u9ece", 1.0),
    ],
)
def test_an_answer_in_words(said, answers, words, right):
    prompt = EvalPrompt("rewrite", "?", answers)
    result = compare_responses(prompt, Response(text=""), Response(text=own_words(said, prompt)))
    assert result.said == ("", words)
    assert result.scores["generated"] == (0.0, right)
    assert result.scores["begins"] == (0.0, float(right or words.startswith("Paris,")))
    assert result.scores["contained"] == result.scores["begins"]


def test_the_old_answer_is_said_in_full():
    prompt = EvalPrompt("rewrite", "?", ("Tolkien",), "F. Scott Fitzgerald")
    assert own_words(" F. Scott Fitzgerald. He", prompt) == "F. Scott Fitzgerald"
    assert own_words(" F. Tolkien. He", prompt) == "F"


@pytest.mark.parametrize(
    ("said", "answer", "words"),
    [
        (" St. Louis, Missouri, and is. It", "St. Louis", "St. Louis, Missouri, and is"),
        (" the city of St. Louis. It", "st. louis", "the city of St. Louis"),
        (
            " J.R.R. Tolkien, and was published in 1937. He",
            "J.R.R. Tolkien",
            "J.R.R. Tolkien, and was published in 1937",
        ),
        (" 3.5 million people. It", "3.5 million", "3.5 million people"),
        (" Washington, D.C., in the east. It", "Washington, D.C.", "Washington, D.C"),
    ],
)
def test_a_full_stop_within_an_answer_does_not_end_what_is_said(said, answer, words):
    prompt = EvalPrompt("rewrite", "?", ("Rome", answer))
    assert own_words(said, prompt) == own_words(said, EvalPrompt("rewrite", "?", ("Rome",), answer)) == words
    result = compare_responses(prompt, Response(text=""), Response(text=own_words(said, prompt)))
    assert result.scores["contained"] == (0.0, 1.0)


def test_passages_that_are_too_short_or_too_long(tokenizer):
    model = tiny_model("gpt2")  # 64 positions
    assert all(map(math.isnan, passage_nll(model, tokenizer, ["R"])))
    short, whole, none = passage_nll(model, tokenizer, ["Rome is in", "Rome is in " + "x" * 200, "R"])
    assert short == pytest.approx(passage_nll(model, tokenizer, ["Rome is in"])[0], rel=1e-5)
    assert math.isfinite(whole)
    assert math.isnan(none)


def test_answers_with_full_stops_are_generated_to_their_end(llama, tokenizer, monkeypatch):
    ended = []

    def continuations(self, limit, finished):
        ended.append([finished(row, " St.") for row in range(len(self))])
        return [""] * len(self)

    monkeypatch.setattr("lga_lightning.models.cached_prompts.CachedPrompts.continuations", continuations)
    prompts = [EvalPrompt("rewrite", "Rome is", answers) for answers in (("Paris",), ("Bonn.",), ("Lyon", "St. Louis"))]
    prompts.append(EvalPrompt("rewrite", "Rome is", ("Paris",), "St. Louis"))
    respond(llama, tokenizer, prompts, unedited)
    assert ended == [[True, True, False, False]]
