"""``attribution.json``: how a result is made, and how strictly it is read."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch

from lga_lightning.editing import FTM
from lga_lightning.exceptions import DataError, LayerError
from lga_lightning.locators import LGA, CausalTracing, FixedLayer, LayerSweep
from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.locators.selection import choose
from lga_lightning.results.attribution import LocatorResult, means_by_layer
from tests.helpers.models import requests
from tests.helpers.results import forecast_result, likely_parts, locator_result, race_result, sweep_result

FIELDS = """schema model data locator scope aggregate num_requests num_skipped settings half_widths requests_to_settle
stopped_early relations seconds neighbours race weights experts scores standard_errors signed_scores cosine fences excluded ranking golden_layer
confidence confidence_set versions checksum"""


def test_the_file_round_trips(tmp_path):
    relations = RelationLayers(["capital", "language"], [7, 5], [1, 2], [0.5, 0.75], 0.01)
    scores = torch.randn(7, 6)
    for result in (
        locator_result(scores),
        locator_result(scores, relations=relations, stopped_early={"after": 7, "of": 9, "confidence": 0.9}),
        locator_result(scores, means={}, half_widths={}),
        forecast_result(likely_parts(7, 6)),
        locator_result(scores, race=race_result(2, [1] * 6, layers=[0, 1, 2], ended="budget", settled=False)),
    ):
        result.save(tmp_path / "attribution.json")
        assert LocatorResult.load(tmp_path / "attribution.json") == result


def test_fields_and_their_order_stay(tmp_path):
    locator_result(torch.randn(7, 6)).save(tmp_path / "attribution.json")
    assert list(json.loads((tmp_path / "attribution.json").read_text())) == FIELDS.split()


def test_numbers_that_are_none_come_back_as_nan(tmp_path):
    locator_result(torch.randn(1, 3), half_widths={"cosine": [math.nan, 1.0, math.inf]}).save(tmp_path / "a.json")
    found = LocatorResult.load(tmp_path / "a.json")
    assert torch.tensor(found.half_widths["cosine"]).isnan().tolist() == [True, False, True]
    assert all(map(math.isnan, found.choice.standard_errors))


def test_a_race_comes_back_with_its_gaps(tmp_path):
    race = race_result(4, [0, 2, 0, 0, 9, 4], seconds=None)
    forecast_result(likely_parts(9, 6), race=race).save(tmp_path / "attribution.json")
    found = LocatorResult.load(tmp_path / "attribution.json").race
    for part, column in race.parts.items():
        assert found.parts[part] == pytest.approx(column, abs=0, nan_ok=True)
        assert [*map(math.isnan, found.parts[part])] == [True, False, True, True, False, False]
    assert replace(found, parts=race.parts) == race


def test_a_file_of_before_has_no_race(tmp_path):
    path = tmp_path / "attribution.json"
    result = locator_result(torch.randn(7, 6))
    result.save(path)
    content = json.loads(path.read_text())
    del content["race"], content["checksum"]
    path.write_text(json.dumps(content))
    assert LocatorResult.load(path) == result


@pytest.mark.parametrize(
    "name", [name for name in FIELDS.split()[1:] if name not in ("race", "weights", "experts", "checksum")]
)
def test_a_field_that_is_missing_is_named(name, tmp_path):
    path = tmp_path / "attribution.json"
    locator_result(torch.randn(7, 6)).save(path)
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    said = "unknown field 'cosine'" if name == "half_widths" else f"lacks the field '{name}'"
    with pytest.raises(LayerError, match=f"{said}. Run `lga fit` again"):
        LocatorResult.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cosines": [0.0] * 6}, "unknown field 'cosines'"),
        ({"fences": {"lower": 0.0, "upper": 1.0, "kapa": 1.0}}, "unknown field 'kapa'"),
        ({"fences": 3}, "has 3 where an object with the fields of Fences should be"),
        ({"half_widths": 3}, "a field holds what it should not"),
        ({"race": 3}, "has 3 where an object with the fields of RaceResult should be"),
        ({"scope": 3}, "has 3 as 'scope', where str should be"),
        ({"race": {}}, "lacks the field 'layers'"),
        ({"race": {**asdict(race_result(1, [0, 2])), "speed": 1}}, "unknown field 'speed'"),
        (
            {"race": {**asdict(race_result(1, [0, 2])), "intervals": [[1.0]]}},
            r"has \[1.0\] as 'intervals', where tuple should be",
        ),
    ],
)
def test_fields_that_nobody_knows_are_refused(change, said, tmp_path):
    path = tmp_path / "attribution.json"
    locator_result(torch.randn(7, 6)).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LayerError, match=said):
        LocatorResult.load(path)


def build(locator, values, status, llama, **settings):
    facts = {
        "model_name": "m",
        "data_name": "d",
        "requests": requests(8),
        "skipped": Counter({"empty target": 2}),
    }
    return LocatorResult.from_scores(
        locator, llama, torch.arange(len(values)), values, torch.tensor(status), **{**facts, **settings}
    )


def test_a_result_is_made_of_the_requests_that_count(llama):
    locator = LGA("mlp_out", aggregate="absolute")
    values = torch.randn(6, len(locator.columns), 4)
    result = build(locator, values, [0, 1, 0, 2, 0, 0], llama, seconds=2.5)
    counted = values[[0, 2, 4, 5]]
    assert result.choice == locator.choose(counted[:, 0])
    assert (result.golden_layer, result.confidence) == (result.choice.golden_layer, result.choice.confidence)
    assert result.num_requests == 4
    assert result.num_skipped == {
        "empty target": 2,
        "the model does not answer with target_old": 1,
        "the model gives no answer, or already the new one": 1,
    }
    assert (result.locator, result.scope, result.aggregate) == ("LGA", "mlp_out", "absolute")
    assert result.settings == locator.settings(llama)
    assert result.signed_scores == pytest.approx(counted[:, 0].sum(0).tolist(), rel=1e-5)
    assert (result.means, result.half_widths) == means_by_layer(counted, locator.columns)
    assert set(result.means) == set(locator.columns[1:])
    assert (result.seconds, result.stopped_early) == (2.5, None)


def test_no_request_that_counts_is_an_error(llama):
    with pytest.raises(DataError, match=r"No proxy request of d is left.*does not answer with target_old \(2\)"):
        build(FixedLayer(1), torch.zeros(2, 1, 4), [1, 1], llama)


def test_a_run_that_was_stopped_says_so(llama):
    values = torch.rand(5, 1, 4)
    early = build(FixedLayer(1), values, [0] * 5, llama, stop_at_confidence=0.9, stopped=True).stopped_early
    assert early == {"after": 5, "of": 8, "confidence": 0.9}
    for settings in (
        {"stop_at_confidence": 0.9},
        {"stopped": True},
        {"stop_at_confidence": 0.9, "stopped": True, "requests": requests(5)},
    ):
        assert build(FixedLayer(1), values, [0] * 5, llama, **settings).stopped_early is None


def test_what_a_result_is_shows_in_its_evidence(llama):
    plain = locator_result(torch.rand(3, 4))
    assert not plain.is_sweep
    assert not plain.has_heat_map
    assert sweep_result(torch.rand(3, 4)).is_sweep
    for locator, is_sweep, has_heat_map in (
        (LayerSweep(), True, False),
        (CausalTracing(), False, False),
        (CausalTracing(heat_map=True), False, True),
    ):
        result = build(locator, torch.rand(3, len(locator.columns), 4), [0] * 3, llama)
        assert (result.is_sweep, result.has_heat_map) == (is_sweep, has_heat_map)


def test_scores_of_edits_are_points_and_their_intervals_end_where_these_do():
    parts = torch.cat([torch.full((6, 3, 1), 0.5), likely_parts(6, 2), torch.ones(6, 3, 1)], 2)
    parts[0, :, 3] = 0.9
    forecast = forecast_result(parts)
    assert forecast.edit_scores == pytest.approx([100 * score for score in forecast.choice.scores])
    low, high = forecast.edit_intervals[3]
    assert low == pytest.approx(100 * (forecast.choice.scores[3] - 1.96 * forecast.choice.standard_errors[3]))
    assert high == 100
    assert forecast.edit_intervals[0] == pytest.approx((50, 50))
    raced = replace(forecast, race=race_result(1, [3] * 4, scores=[2.0, 50.0, 99.0, 101.0]))
    intervals = [(-1.0, 5.0), (47.0, 53.0), (96.0, 102.0), (98.0, 104.0)]
    raced = replace(raced, race=replace(raced.race, intervals=intervals))
    assert raced.edit_scores == raced.race.scores
    assert raced.edit_intervals == [(0, 5), (47, 53), (96, 100), (98, 101)]


def test_layers_that_a_sweep_leaves_out_have_no_score(llama, tokenizer):
    sweep = LayerSweep(FTM(steps=1), layers=[1, 3])
    values = sweep.score(llama, tokenizer, requests(2)).values
    result = build(sweep, values, [0] * 2, llama)
    assert (result.scored_layers, forecast_result(likely_parts(3, 4)).scored_layers) == ([1, 3], [0, 1, 2, 3])
    assert [*map(math.isnan, result.edit_scores)] == [True, False, True, False]
    assert [math.isnan(low) and math.isnan(high) for low, high in result.edit_intervals] == [True, False, True, False]


def test_a_race_has_the_last_word():
    forecast = forecast_result(likely_parts(20, 6))
    assert (forecast.is_forecast, forecast.is_sweep, forecast.verified) == (True, False, False)
    assert not sweep_result(torch.rand(3, 4)).is_forecast
    assert not locator_result(torch.rand(3, 4)).is_forecast
    assert (forecast.golden_layer, forecast.confidence) == (forecast.choice.golden_layer, forecast.choice.confidence)
    other = (forecast.golden_layer + 1) % 6
    raced = replace(forecast, race=race_result(other, [3] * 6, confidence=0.8125))
    assert (raced.golden_layer, raced.confidence, raced.verified) == (other, 0.8125, True)


def test_without_fences(tmp_path):
    result = locator_result(torch.randn(7, 6), choice=choose(torch.randn(7, 6), kappa=None))
    result.save(tmp_path / "attribution.json")
    assert LocatorResult.load(tmp_path / "attribution.json") == result


def test_nothing_is_settled_by_a_handful():
    clear = torch.tensor([0.0, 1.0, 5.0, 2.0]).repeat(40, 1) + 0.01 * torch.randn(40, 4)
    for count, settled in ((40, True), (30, True), (29, False), (2, False), (1, False)):
        result = locator_result(clear[:count])
        assert result.choice.confidence == 1.0
        assert result.settled == settled
    assert locator_result(torch.tensor([[0.0, 1.0], [0.0, 1.0]])).settled  # it says the same of every request
