"""Requests without a subject: who edits and scores them, and who leaves them out or refuses them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lga_lightning import edit, find_golden_layer
from lga_lightning.cli import run
from lga_lightning.data import RequestBatch
from lga_lightning.editing import FTL, FTM
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.exceptions import InvalidRequest
from lga_lightning.locators import LGA, CausalTracing, EditForecast, FixedLayer, LayerSweep, ValueGradient
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.score_requests import SKIPPED, score_requests
from tests.editing.helpers import ALL, method_for
from tests.helpers.cli import QUICK, refused
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests

LEFT_OUT = SKIPPED[3]


def without(count: int) -> list:
    return [replace(request, subject=None) for request in requests(count)]


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.needs_subject])
def test_methods_that_work_at_a_subject_refuse_them_by_name(kind, llama, tokenizer):
    method, mixed = method_for(kind, llama), [*requests(1), *without(3)[1:]]
    for edit_them in (method.compute, method.compute_each):
        with pytest.raises(InvalidRequest, match=rf"{method.name} works at .*'Rome is in the country of' \(row 1\)"):
            edit_them(llama, tokenizer, mixed, 1)


@pytest.mark.parametrize("kind", [FTL, FTM])
def test_fine_tuning_does_not_ask_for_one(kind, llama, tokenizer):
    """The edit and its scores are those of the same requests with subjects."""
    method = method_for(kind, llama)
    pairs = [method.compute_each(llama, tokenizer, asked, 2) for asked in (without(3), requests(3))]
    for one, other in zip(*pairs, strict=True):
        assert all(torch.equal(one.matrix(name), other.matrix(name)) for name in other.updates)
    bare, full = (evaluate(llama, tokenizer, asked, pairs[0]) for asked in (without(3), requests(3)))
    assert bare == full


@pytest.mark.parametrize(
    "locator",
    [LGA(), LGA("block", loss="text"), FixedLayer(1), LayerSweep(FTM(steps=2)), EditForecast(FTM())],
    ids=lambda locator: type(locator).__name__,
)
def test_locators_that_do_not_ask_for_one(locator, llama, tokenizer):
    """LGA, the prior and the sweep score them as with subjects; a forecast of fine-tuning looks at all tokens."""
    bare, full = (
        find_golden_layer(llama, tokenizer, asked, locator).choice.scores for asked in (without(4), requests(4))
    )
    assert bare == pytest.approx(full)


@pytest.mark.parametrize(
    "locator", [ValueGradient(), EditForecast(), CausalTracing(copies=2), LayerSweep()], ids=lambda x: type(x).__name__
)
def test_locators_that_ask_for_one(locator, llama, tokenizer):
    assert locator.needs_subject
    with pytest.raises(InvalidRequest, match=f"{type(locator).__name__} works at the subject's last token"):
        find_golden_layer(llama, tokenizer, without(2), locator)


def test_those_without_are_left_out_and_counted(llama, tokenizer):
    mixed = [without(8)[0], *requests(8)[1:5], *without(8)[5:]]
    found = find_golden_layer(llama, tokenizer, mixed, ValueGradient(), batch_size=3)
    alone = find_golden_layer(llama, tokenizer, requests(8)[1:5], ValueGradient())
    assert (found.num_requests, found.num_skipped) == (4, {LEFT_OUT: 4})
    assert found.choice.scores == pytest.approx(alone.choice.scores)
    batch = RequestBatch([4, 5], without(2))
    evidence = score_requests(ValueGradient(), llama, tokenizer, batch)
    assert (evidence["status"].tolist(), evidence["values"].isfinite().all().item()) == ([3, 3], True)


def test_no_race_of_edits_that_need_one(llama, tokenizer):
    with pytest.raises(InvalidRequest, match="R-ROME works at the subject's last token"):
        find_golden_layer(llama, tokenizer, without(4), LGA(), verify=RaceSettings(budget=8))


def test_the_function_edits_them(llama, tokenizer):
    delta = edit(llama, tokenizer, without(2), 1, FTM(steps=2))
    assert sorted(delta.by_block(llama)) == [1]
    with pytest.raises(InvalidRequest, match="R-ROME works at the subject's last token"):
        edit(llama, tokenizer, without(2), 1)


@pytest.mark.usefixtures("at_the_shell")
def test_the_command_line(model_folder, tmp_path, capsys):
    facts = rows(5)
    for fact in facts[:3]:
        del fact["subject"]
    data = write_rows(tmp_path / "facts.jsonl", facts)
    given = [f"--model.model_name={model_folder}", f"--data.requests={data}", *QUICK]
    run(["fit", *given, "--model.locator=ValueGradient"])
    assert json.loads((tmp_path / "attribution.json").read_text())["num_skipped"] == {LEFT_OUT: 3}
    assert LEFT_OUT in capsys.readouterr().out
    for mode in ("independent", "batch", "sequential"):
        run(["validate", *given, "--model.editor=FTM", "--model.editor.steps=2", f"--model.mode={mode}"])
        left = json.loads((tmp_path / "validation.json").read_text())
        assert [request["subject"] for request in left["requests"]].count(None) == 3
    assert (tmp_path / "report.html").exists()
    error = refused(["validate", *given, "--model.editor=ROME"], capsys)
    assert "ROME works at the subject's last token" in error
    run(["predict", *given, "--model.editor=FTM", "--model.editor.steps=2", "--model.mode=independent"])
