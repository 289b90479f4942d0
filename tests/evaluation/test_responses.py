"""Where a model's own answer ends, and whether it is right."""

from __future__ import annotations

import math

import pytest

from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.prompts import EvalPrompt
from lga_lightning.evaluation.responses import Response, own_words, passage_nll, respond
from lga_lightning.evaluation.results import compare_responses
from lga_lightning.models.cached_prompts import unedited
from lga_lightning.models.encoding import target_ids
from tests.helpers.edits import random_edits
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


@pytest.mark.parametrize("protocol", ["completion", "wild"])
def test_a_paragraph_is_said_to_its_end(protocol, llama, tokenizer):
    prompt, paragraph = "What is Rome?", "Rome is in Italy. Paris is the capital of France, they say: the mother."
    first, script = len(tokenizer(prompt)["input_ids"]) - 1, [*target_ids(tokenizer, paragraph), tokenizer.eos_token_id]

    def parrot(model, args, options, output):
        for row, place in zip(output.logits[:, -1], options["position_ids"][:, -1].tolist(), strict=True):
            row[script[min(place - first, len(script) - 1)]] = 1e4

    data = [EditRequest(prompt, None, answer) for answer in (paragraph, "Rome")]
    config = EvaluationConfig(max_new_tokens=5, protocol=protocol, context="")
    handle = llama.register_forward_hook(parrot, with_kwargs=True)
    (whole,), (short,) = evaluate(llama, tokenizer, data, random_edits(llama, 2), config)
    handle.remove()
    assert whole.scores["generated"] == whole.scores["contained"] == (1.0, 1.0)
    assert whole.scores.get("ended", (1.0, 1.0)) == (1.0, 1.0)
    assert target_ids(tokenizer, short.said[1]) == script[:5]  # answers that are no longer are cut as before
