"""Texts that are too long for a model are refused by name, at once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.editing import MEMIT, RROME, WeightDelta
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.lengths import check_asked_lengths
from lga_lightning.exceptions import InvalidRequest
from lga_lightning.functional import edit, find_golden_layer
from lga_lightning.job import EditJob
from lga_lightning.models.lengths import check_lengths
from tests.editing.helpers import method_for
from tests.helpers.cli import FAST_EDIT, refused
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_model

REQUEST = EditRequest("Rome is in", "Rome", "France", "Italy", id="line 3")
LONG = "Rome is in " + "x" * 80


def test_what_fits_is_let_through(tokenizer):
    for family in ("gpt2", "llama"):
        check_lengths(tiny_model(family), tokenizer, requests())


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": LONG},
        {"rephrases": (LONG,)},
        {"target_new": LONG},
        {"target_old_aliases": (LONG,)},
        {"locality": {"near": (Probe(LONG, ("a",)),)}},
        {"portability": {"far": (Probe("Rome", (LONG,)),)}},
        {"generation_prompts": (LONG,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_text_is_looked_at(change, tokenizer):
    model = tiny_model("gpt2")  # 64 positions
    with pytest.raises(InvalidRequest, match=r"\(line 3\) takes \d+ tokens with its answer, and the model has 64 posi"):
        check_lengths(model, tokenizer, [REQUEST, replace(REQUEST, **change)])


ASKED = {
    "contradiction": EvaluationConfig(generate=False, probes=("contradiction",)),
    "negation": EvaluationConfig(generate=False, probes=("negation",)),
    "wild": EvaluationConfig(
        protocol="wild", max_new_tokens=2, context="It rained, and nobody was out on the streets."
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_beside_the_texts_is_looked_at_too(name, tokenizer):
    model, config = tiny_model("gpt2"), ASKED[name]
    request = replace(REQUEST, prompt=f"Rome is in {'x' * (44 if name == 'negation' else 28)}")
    check_lengths(model, tokenizer, [request])
    check_asked_lengths(model, tokenizer, [request], EvaluationConfig())
    with pytest.raises(IndexError):  # positions that are not there
        evaluate(model, tokenizer, [request], [WeightDelta({})], config)
    with pytest.raises(InvalidRequest, match=r"\(line 3\) takes \d+ tokens.*, and the model has 64 posi"):
        check_asked_lengths(model, tokenizer, [request], config)
    job = EditJob(layer=1, editor=RROME(second_moment="identity"), evaluation=config)
    with pytest.raises(InvalidRequest, match="64 positions"):
        job.run(model, tokenizer, [request])
    check_asked_lengths(model, tokenizer, [REQUEST], config)
    evaluate(model, tokenizer, [REQUEST], [WeightDelta({})], config)


def test_the_positions_of_mpt_are_known(tokenizer):
    model = tiny_model("mpt", max_seq_len=64)
    with pytest.raises(InvalidRequest, match="the model has 64 positions"):
        check_lengths(model, tokenizer, [replace(REQUEST, prompt=LONG)])


def test_functions_refuse_it_too(tokenizer):
    model, long = tiny_model("gpt2"), [replace(REQUEST, rephrases=(LONG,))]
    for call in (find_golden_layer, edit):
        with pytest.raises(InvalidRequest, match="64 positions"):
            call(model, tokenizer, long)


@pytest.mark.usefixtures("at_the_shell")
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_line_of_megabytes_is_refused_by_name(verb, arguments, tmp_path, capsys, monkeypatch):
    (row,) = rows(1)
    data = write_rows(tmp_path / "long.jsonl", [{**row, "prompt": row["prompt"] + "x" * 5_000_000}])
    assert len(json.loads(data.read_text())["prompt"]) > 5_000_000
    said = refused([verb, *arguments, *FAST_EDIT, f"--data.requests={data}", "--model.layer=1"], capsys)
    assert "long.jsonl, line 1" in said
    assert "positions" in said
    assert len(said) < 500


@pytest.mark.parametrize("kind", [RROME, MEMIT])
def test_a_prompt_that_is_too_long_behind_a_context_is_named(kind, tokenizer):
    model = tiny_model("gpt2")
    fact = EditRequest("x" * 50 + " Rome is in", "Rome", "France", "Italy")
    check_lengths(model, tokenizer, [fact])
    method = method_for(kind, model)
    with pytest.raises(
        InvalidRequest, match=r"The prompt 'xxx.* tokens with its answer, behind a text .* 64 positions. Shorten it"
    ):
        method.compute(model, tokenizer, [*requests(1), fact], 1)
