"""``comparison.json`` is read as it was written."""

from __future__ import annotations

import json
import math

import pytest

from lga_lightning.exceptions import DataError
from lga_lightning.results.comparison import Comparison
from tests.helpers.results import comparison


def test_the_file_round_trips(tmp_path):
    result = comparison()
    result.save(tmp_path)
    assert Comparison.load(tmp_path) == result


def test_numbers_that_are_none_come_back_as_nan(tmp_path):
    comparison(parts={"portability": [math.nan, 1.0]}).save(tmp_path)
    nothing, something = Comparison.load(tmp_path).sweeps[0].parts["portability"]
    assert math.isnan(nothing)
    assert something == 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"truths": []}, "unknown field 'truths'"),
        ({"rows": [{"name": "LGA"}]}, "lacks the field 'layer'"),
        ({"schema": 2}, "not a comparison of schema 1"),
    ],
)
def test_fields_that_are_not_as_they_should_be(change, said, tmp_path):
    comparison().save(tmp_path)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=f"{said}.*Run `lga compare` again"):
        Comparison.load(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"There is no comparison at .*Run `lga compare` first"):
        Comparison.load(tmp_path)
