"""``validation.json``: what stands in it, in which order, and how strictly it is read."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.evaluation.summary import mean_by_group, summarise
from lga_lightning.exceptions import DataError
from lga_lightning.results.typed import typed
from lga_lightning.results.validation import ValidationResult
from lga_lightning.results.validation_parts import DriftPoint, Metric
from tests.helpers.models import requests
from tests.helpers.results import validation

FIELDS = """schema model data layers layer_source method mode mode_means num_requests num_skipped intervals evaluation metrics
group_size drift requests versions checksum"""


def outcome(group: str, after: float) -> EvalResult:
    scores = {"token": (0.0, after), "generated": (0.25, after), "begins": (0.0, 1.0), "nll": (2.0, after)}
    return EvalResult(group, "Q", ("Rome",), scores, ("Paris", "Rome"))


OUTCOMES = [
    [outcome("rewrite", 1.0), outcome("locality.one_hop", 0.5)],
    [outcome("rewrite", 0.0), outcome("portability.reasoning", 1.0)],
    [outcome("rewrite", 1.0)],
]
TOGETHER = {
    "mode": "sequential",
    "group_size": 2,
    "drift": [DriftPoint(2, {1: 0.5, 3: 0.25}, {"rewrite": 0.5, "locality": math.nan})],
    "change": {1: 0.75, 3: 0.25},
}


def test_edits_that_share_the_weights(tmp_path):
    result = validation(OUTCOMES, skipped={"empty target": 2}, **TOGETHER)
    result.save(tmp_path / "validation.json")
    content = json.loads((tmp_path / "validation.json").read_text())
    assert list(content) == FIELDS.split()
    assert (content["mode_means"], content["group_size"]) == (
        "requests edited one group after the other, with all earlier edits in place, then scored",
        2,
    )
    expected = json.loads(json.dumps(summarise(OUTCOMES, max_new_tokens=EvaluationConfig().limit, resamples=10)))
    assert content["metrics"] == expected
    assert [list(entry) for entry in content["metrics"].values()] == [list(entry) for entry in expected.values()]
    assert content["drift"] == [
        {"edits": 2, "relative_change": {"1": 0.5, "3": 0.25}, "rewrite": 0.5, "locality": None},
        {
            "edits": 3,
            "relative_change": {"1": 0.75, "3": 0.25},
            "rewrite": pytest.approx(2 / 3),
            "portability": 1.0,
            "portability.reasoning": 1.0,
            "locality": 0.5,
            "locality.one_hop": 0.5,
        },
    ]
    assert result.drift is not None
    assert [point.largest_change for point in result.drift] == [0.5, 0.75]
    asked = requests(3)
    for row, request, of_request in zip(content["requests"], asked, OUTCOMES, strict=True):
        assert row == {
            "id": request.id,
            "prompt": request.prompt,
            "subject": request.subject,
            "target_old": request.target_old,
            "target_new": request.target_new,
            **mean_by_group(of_request),
        }
        assert list(row)[:5] == ["id", "prompt", "subject", "target_old", "target_new"]


def test_what_edits_alone_lack_is_left_out(tmp_path):
    result = validation(OUTCOMES)
    content = result.to_dict()
    assert list(content) == [name for name in FIELDS.split() if name not in ("group_size", "drift", "checksum")]
    result.save(tmp_path / "validation.json")
    assert ValidationResult.load(tmp_path / "validation.json") == result
    everything = validation(OUTCOMES, mode="batch")
    assert (everything.group_size, [point.edits for point in everything.drift]) == (3, [3])


def test_the_file_round_trips(tmp_path):
    for result in (validation(OUTCOMES, **{**TOGETHER, "drift": []}), validation(OUTCOMES[1:2])):
        result.save(tmp_path / "validation.json")
        found = ValidationResult.load(tmp_path / "validation.json")
        assert found.to_dict() == result.to_dict()
        assert found.drift == result.drift
    validation(OUTCOMES, **TOGETHER).save(tmp_path / "validation.json")
    point, _ = ValidationResult.load(tmp_path / "validation.json").drift
    assert point.relative_change == {1: 0.5, 3: 0.25}
    assert math.isnan(point.scores["locality"])


def test_the_perplexity_of_a_broken_model_round_trips(tmp_path):
    broken = Metric(20.0, 1e70, [18.0, 22.0], [9.3e18, math.inf], 3, "exp of the mean")
    result = replace(validation(OUTCOMES), metrics={"perplexity": broken})
    result.save(tmp_path / "validation.json")
    assert ValidationResult.load(tmp_path / "validation.json").metrics["perplexity"].after == 1e70


def test_a_broken_model_can_be_read():
    content = {"edits": 2, "relative_change": {"0": 0.5, "1": None, "2": 0.7}, "rewrite": 0.0}
    point = typed(DriftPoint.from_json(content))
    assert math.isnan(point.relative_change[1])
    assert math.isnan(point.largest_change)


def test_means_for_loggers():
    result = validation(OUTCOMES)
    means = result.means()
    assert means["rewrite/after"] == result.metrics["rewrite"].after == pytest.approx(2 / 3)
    assert means["generated/rewrite/before"] == 0.25
    assert means["generated/locality.one_hop/after"] == 0.5
    assert not any(name.startswith("begins") for name in means)
    assert len(means) == 2 * 2 * len(result.metrics)


@pytest.mark.parametrize(
    "name", sorted(set(FIELDS.split()) - {"checksum", "schema", "evaluation", "group_size", "drift"})
)
def test_a_field_that_is_missing_is_named(name, tmp_path):
    content = validation(OUTCOMES, **TOGETHER).to_dict()
    del content[name]
    (tmp_path / "validation.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"lacks the field '{name}'. Run `lga validate` again"):
        ValidationResult.load(tmp_path / "validation.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "not a validation of schema 1"),
        ({"layer": 3}, "unknown field 'layer'"),
        ({"metrics": {"rewrite": 3}}, "has 3 where an object with the fields of Metric should be"),
        ({"metrics": {"rewrite": {"before": 0.0}}}, "lacks the field 'after'"),
        ({"requests": [{"id": "1"}]}, "lacks the field 'prompt'"),
        ({"drift": [{"edits": 1}]}, "lacks the field 'relative_change'"),
        ({"requests": 3}, "a field holds what it should not"),
    ],
)
def test_fields_that_are_not_as_they_should_be(change, said, tmp_path):
    content = validation(OUTCOMES, **TOGETHER).to_dict()
    (tmp_path / "validation.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(DataError, match=said):
        ValidationResult.load(tmp_path / "validation.json")


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"There is no validation at .*Run `lga validate` first"):
        ValidationResult.load(tmp_path / "validation.json")
