"""Prompts with the opposite sense: what they say, what is counted on them, and where it is reported."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lga_lightning.callbacks import EditReport
from lga_lightning.cli import run
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import FTM
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.edit_metrics import TokenAccuracy
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.prompts import EvalPrompt, negated, probe_of
from lga_lightning.evaluation.responses import Response
from lga_lightning.evaluation.summary import summarise
from lga_lightning.exceptions import SettingError
from tests.helpers.edits import random_edits
from tests.helpers.models import requests, tiny_model

PROBES = ("negation", "contradiction")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("The capital of Peru is", "It is not true that the capital of Peru is"),
        ("A dog is", "It is not true that a dog is"),
        ("Rome is in ", "It is not true that Rome is in"),  # a name keeps its capital
        ("Theodore was born in", "It is not true that Theodore was born in"),
        ("Where is Rome?", "Where is Rome? A wrong answer is"),
    ],
)
def test_negated(prompt, expected):
    assert negated(EditRequest(prompt, None, "x")) == expected


def test_probes_come_where_they_are_asked_for():
    request = EditRequest("Rome is in", "Rome", "France.", "Italy", target_new_aliases=("Gaul",))
    plain, asked = EvaluationConfig(), EvaluationConfig(probes=PROBES)
    assert [prompt.group for prompt in plain.prompts(request)] == ["rewrite"]
    assert asked.prompts(request)[1:] == [probe_of(request, group) for group in PROBES]
    denied = EvalPrompt(
        "contradiction", "Rome is in France. No, that is false. Rome is in", ("France.", "Gaul"), "Italy"
    )
    assert asked.prompts(request)[2] == denied
    assert len(EvaluationConfig(families=("rewrite",), probes=("negation", "negation")).prompts(request)) == 2
    with pytest.raises(
        SettingError, match=r"`probes` must be some of \['negation', 'contradiction'\], got \['denial'\]"
    ):
        EvaluationConfig(probes=("denial",))
    with pytest.raises(SettingError, match="`probes` must be some of"):
        EditReport(probes="negations")
    assert EditReport(probes="negation").config.probes == ("negation",)


@pytest.mark.parametrize(("right", "expected"), [([3, 4, 5], 1.0), ([3, 4, 9], 0.0), ([9, 9, 9], 0.0)])
def test_the_whole_answer_must_come(right, expected):
    """Two of three tokens are two thirds of a rewrite, and no sign that the answer is still said."""
    labels = torch.tensor([3, 4, 5])
    before, after = Response(torch.tensor([9, 9, 9]), labels), Response(torch.tensor(right), labels)
    assert TokenAccuracy().score(EvalPrompt("negation", "?", ("x",)), before, after) == (0.0, expected)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("max_rows", [2, 64])
def test_scores_are_those_of_edited_weights_and_plain_passes(max_rows, tokenizer):
    """Half of the edits make the new answer come on the denial itself; the others are at random."""
    model, data = tiny_model("llama", torch.float64), requests(6)
    deltas, method = random_edits(model, 6), FTM(steps=40, learning_rate=0.05, epsilon=None)
    for row in range(0, 6, 2):
        asked = [replace(data[row], prompt=probe_of(data[row], group).prompt, subject=None) for group in PROBES]
        deltas[row] = method.compute(model, tokenizer, asked[: 1 + row // 4], 3)
    config = EvaluationConfig(probes=PROBES, max_rows=max_rows, generate=False)
    results = evaluate(model, tokenizer, data, deltas, config)
    found, expected = [], []
    for request, delta, of_request in zip(data, deltas, results, strict=True):
        for group in PROBES:
            prompt = probe_of(request, group)
            (score,) = [one.scores["token"] for one in of_request if one.group == group]
            ids, target = (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (prompt.prompt, f" {request.target_new}")
            )
            sides = []
            for edit in ({}, {"on": delta}):
                logits = _logits(model, ids + target, edit.get("on"))
                sides.append(float(logits[len(ids) - 1 : -1].argmax(-1).tolist() == target))
            found.append(score)
            expected.append(tuple(sides))
    assert found == expected
    assert {after for _, after in expected} == {0.0, 1.0}
    metrics = summarise(results, resamples=20)
    for place, group in enumerate(PROBES):
        assert metrics[group]["after"] == pytest.approx(sum(after for _, after in expected[place::2]) / 6)
        assert "lower is better" in metrics[group]["protocol"]


def _logits(model, ids, delta):
    if delta is None:
        return model(torch.tensor([ids])).logits[0]
    with delta.attached(model):
        return model(torch.tensor([ids])).logits[0]


def test_an_edit_that_ignores_the_sense_scores_high(tokenizer):
    """A model that says one word whatever it is asked: the rewrite holds, and so does every denial of it."""
    model = tiny_model("llama", torch.float64)
    data = [replace(request, target_new="Rome") for request in requests(3) if request.target_old != "Rome"]
    method = FTM(steps=40, learning_rate=0.05, epsilon=None, stop_loss=0.0)
    deltas = [method.compute(model, tokenizer, data, 3)] * len(data)
    metrics = summarise(evaluate(model, tokenizer, data, deltas, EvaluationConfig(probes=PROBES)), resamples=20)
    assert metrics["rewrite"]["after"] == 1
    assert metrics["negation"]["after"] > metrics["negation"]["before"] == 0
    assert set(metrics["negation"]) >= {"generated", "begins"}


@pytest.mark.usefixtures("at_the_shell")
def test_from_the_command_line_to_the_report(arguments, tmp_path, capsys):
    quick = ["--model.editor=FTM", "--model.editor.steps=2", "--model.layer=1", "--data.limit=3"]
    run(["validate", *arguments, *quick, "--edits.probes=negation", "--edits.max_new_tokens=4"])
    left = json.loads((tmp_path / "validation.json").read_text())
    assert "negation" in left["metrics"]
    assert set(left["requests"][0]["negation"]) >= {"before", "after", "generated"}
    assert "negation" in capsys.readouterr().out
    assert "where it is denied" in (tmp_path / "report.html").read_text().lower()
    run(["validate", *arguments, *quick, "--edits.probes=[negation,contradiction]", "--edits.generate=false"])
    assert {*PROBES} <= set(json.loads((tmp_path / "validation.json").read_text())["metrics"])
