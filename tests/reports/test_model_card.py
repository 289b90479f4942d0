"""The page that goes with an edit: what is on it, and that data cannot become YAML, HTML or Markdown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.models.packaged import SMOLLM2
from lga_lightning.reports.markdown import escape_markdown
from lga_lightning.reports.model_card import model_card
from tests.helpers.models import requests
from tests.helpers.results import validation

EVIL = "a: b\n---\nlicense: mit\ntags: [x] # | <script>alert(1)</script> [l](http://x) `c` *e* \\| \"q\" 'q'"


def outcome(group: str, after: float) -> EvalResult:
    return EvalResult(group, "Q", ("Rome",), {"token": (0.0, after), "generated": (0.25, after)}, ("Paris", "Rome"))


def card(kind="adapter", count=2, **changes) -> str:
    result = validation([[outcome("rewrite", 1.0)]] * count, **changes)
    return model_card(result, requests(8)[:count], {3: 2, 4: 1}, kind)


def test_what_is_on_the_page():
    text = card(method={"name": "ROME", "steps": 20, "context_lengths": [3]}, layers=[3, 4], model_name="org/base")
    page = ModelCard(text)
    assert page.data.to_dict() == {
        "base_model": "org/base",
        "library_name": "peft",
        "tags": ["knowledge-editing", "lga-lightning"],
    }
    for line in (
        "# 2 edited facts in org/base",
        "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained('org/base'), \"this folder\")",
        "| prompt | before | after |",
        "| --- | --- | --- |",
        "| The capital of France is | Paris | Rome |",
        "| rewrite | 0.000 | 1.000 | 0.250 | 1.000 |",
        "| steps | 20 |",
        "| context_lengths | \\[3\\] |",
    ):
        assert line in text.splitlines(), line
    assert "Edited with ROME at layers 3, 4, rank 1, 2 (given; every request edited alone" in text
    assert "more; all are in" not in text
    # a table, and every heading, has an empty line before it
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(("## ", "| prompt", "| metric", "| setting")):
            assert lines[number - 1] == ""
    assert "\n\n\n\n" not in text


@pytest.mark.parametrize(
    ("kind", "library", "said"),
    [
        ("adapter", "peft", "PeftModel.from_pretrained"),
        ("matrices", "transformers", "WeightDelta.load"),
        ("merged", "transformers", "The edits are in the weights."),
    ],
)
def test_how_to_load_it(kind, library, said):
    text = card(kind, count=1, model_name="smollm2-135m")
    assert said in text
    assert "# 1 edited fact in" in text
    assert ("rank 1, 2" in text) is (kind != "merged")
    assert ModelCard(text).data.library_name == library
    assert ModelCard(text).data.base_model == SMOLLM2.hub_id


def test_a_model_name_is_no_yaml_and_no_code():
    text = card(model_name=EVIL)
    page = ModelCard(text)
    assert page.data.to_dict()["base_model"] == EVIL
    assert set(page.data.to_dict()) == {"base_model", "library_name", "tags"}
    assert "license" not in page.data.to_dict()
    (line,) = [line for line in text.splitlines() if "AutoModelForCausalLM.from_pretrained(" in line]
    assert repr(EVIL) in line
    (title,) = [line for line in text.splitlines() if line.startswith("# ")]
    assert "<script>" not in title


def test_facts_are_escaped():
    result = validation([[outcome("rewrite", 1.0)]])
    evil = replace(requests(1)[0], prompt=f"{EVIL} France", target_new=EVIL, target_old="x\r\n\r\n# y")
    text = model_card(result, [evil], {3: 1}, "adapter")
    assert "<script>" not in text
    (row,) = [line for line in text.splitlines() if "alert(1)" in line]
    assert row.startswith("| a: b --- license: mit")
    cells = row.replace("\\\\", "").replace("\\|", "").split("|")
    assert len(cells) == 5  # an empty one at either end
    assert cells[2] == " x # y "
    assert "\\[l\\](http://x)" in row
    assert "\\`c\\` \\*e\\* \\\\\\|" in row


def test_a_long_list_is_cut():
    result = validation([[outcome("rewrite", 1.0)]])
    text = model_card(result, [*requests(8)] * 13, {3: 1}, "adapter")
    assert "... and 4 more; all are in `lga.json`." in text
    assert text.count("| Danielle") + text.count("| The mother tongue of Danielle") == 13


@pytest.mark.parametrize(("kind", "file"), [("adapter", "facts.json"), ("matrices", "facts.json"), ("merged", None)])
def test_where_all_facts_are_if_some_were_scored(kind, file):
    """`lga.json` has those that were scored."""
    result = validation([[outcome("rewrite", 1.0)]], mode="batch", num_requests=104)
    text = model_card(result, [*requests(8)] * 13, {3: 1}, kind)
    assert ("more; all are in" in text) is (file is not None)
    if file is None:
        assert text.count("The capital of France is") == 13
    else:
        assert f"... and 4 more; all are in `{file}`." in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("snake_case and _this_", "snake_case and \\_this\\_"),
        ("AT&T <br>", "AT&amp;T &lt;br&gt;"),
        ("a\tb\n\nc", "a b c"),
        ("~~gone~~", "\\~\\~gone\\~\\~"),
        ("Ångström is 5 % - fine", "Ångström is 5 % - fine"),
    ],
)
def test_escaping(text, escaped):
    assert escape_markdown(text) == escaped
