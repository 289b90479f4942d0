"""The picture and the table, also for results at the edge."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.locators.causal_tracing import GROUPS, KINDS
from lga_lightning.reports.comparison import leave_comparison
from lga_lightning.reports.facts import print_facts
from lga_lightning.reports.figures import draw_layers
from lga_lightning.reports.heatmap import draw_heat_map
from lga_lightning.reports.terminal import print_attribution, print_edits, print_places, print_written
from lga_lightning.results.attribution import LocatorResult, means_by_layer
from tests.helpers.results import (
    comparison,
    forecast_result,
    likely_parts,
    locator_result,
    partial_sweep,
    race_result,
    validation,
)

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.mark.parametrize(
    "scores",
    [
        torch.randn(20, 30),
        torch.randn(1, 4),  # no standard error
        torch.zeros(3, 5),  # no spread
        torch.cat([torch.randn(6, 9), torch.full((6, 2), -1e6)], 1),
        torch.randn(5, 96) * 1e-9,
    ],
)
def test_picture_and_table(scores, tmp_path, capsys):
    result = locator_result(scores)
    draw_layers(result, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    print_attribution(result, tmp_path)
    said = capsys.readouterr().out
    assert f"Golden layer: {result.choice.golden_layer}" in said
    assert "2 (empty target)" in said


def test_says_how_sure_it_is_and_what_would_settle_it(tmp_path, capsys):
    settled = torch.tensor([[0.0, 1.0, 0.5]]).repeat(40, 1)
    close = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    relations = RelationLayers(["capital", "language"], [20, 20], [1, 2], [0.5, 0.75], 0.01)
    early = replace(
        locator_result(settled), stopped_early={"after": 40, "of": 90, "confidence": 0.95}, relations=relations
    )
    cases = {
        "Ended early, after 40 of 90 requests": early,
        "The relations' layers differ beyond chance": early,
        "it takes about 400 requests like these 40": replace(locator_result(close), requests_to_settle=400),
        "The layer leads the runner-up clearly": replace(locator_result(close), requests_to_settle=20),
        "No practical number of requests": replace(locator_result(close), requests_to_settle=400_000),
        "One request says nothing": locator_result(torch.tensor([[0.0, 1.0]])),
    }
    for said, result in cases.items():
        if "settle" in said or "takes" in said or "practical" in said or "clearly" in said:
            assert not result.choice.settled
        if said.startswith("One"):
            result = replace(result, choice=replace(result.choice, confidence_set=[1, 0]))
        print_attribution(result, tmp_path)
        assert said in " ".join(capsys.readouterr().out.split())
    assert early.choice.settled


def test_heat_map(tmp_path):
    columns = [f"{kind}.{group}" for kind in KINDS for group in GROUPS]
    values = torch.randn(6, len(columns), 5).mul_(0.1)
    values[:, 1] = torch.nan  # no request has middle tokens
    means, half_widths = means_by_layer(torch.cat([values[:, :1], values], 1), ("scores", *columns))
    result = replace(locator_result(torch.randn(6, 5)), means=means, half_widths=half_widths, settings={"window": 10})
    result.save(tmp_path / "attribution.json")
    for drawn in (result, LocatorResult.load(tmp_path / "attribution.json")):
        draw_heat_map(drawn, tmp_path / "heat.png")
        assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    mean = values[:, 0].mean(0)
    torch.testing.assert_close(torch.tensor(means["block.first_subject"]), mean)
    band = 1.96 * values[:, 0].std(0) / 6**0.5
    torch.testing.assert_close(torch.tensor(half_widths["block.first_subject"]), band)


def test_says_when_the_signed_sum_misleads(tmp_path, capsys):
    scores = -torch.rand(8, 6) - 0.1
    for aggregate, said in (("sum", True), ("absolute", False)):
        print_attribution(locator_result(scores if said else -scores, aggregate), tmp_path)
        assert ("Every score is negative" in capsys.readouterr().out) is said


def printed(result: LocatorResult, root, capsys) -> str:
    print_attribution(result, root)
    return " ".join(capsys.readouterr().out.split())


def test_a_forecast_is_not_verified(tmp_path, capsys):
    result = forecast_result(likely_parts(48, 18))
    said = printed(result, tmp_path, capsys)
    score = f"{100 * result.choice.scores[result.golden_layer]:.1f}"
    assert (
        f"Golden layer: {result.golden_layer}, expected score {score} (forecast from 48 requests, not verified). "
        "To verify it with a few real edits: `lga fit --verify`. Files:"
    ) in said
    assert result.golden_layer >= 2
    windows = printed(replace(result, settings={"editor": {"window": 3}}), tmp_path, capsys)
    assert f"Golden layers: {result.golden_layer - 2}-{result.golden_layer}, expected" in windows
    assert "A layer stands for the window of up to 3 blocks that ends there." in windows
    assert "window" not in said
    assert f"The same layer in {result.choice.confidence:.0%} of the resamples of the requests; 90% of them" in said
    for word in ("settled", "chosen in", "sure", "Few requests", "nan"):
        assert word not in said
    assert "Few requests: 29 counted" in printed(forecast_result(likely_parts(29, 18)), tmp_path, capsys)
    assert "Few requests" not in printed(forecast_result(likely_parts(30, 18)), tmp_path, capsys)


def test_a_forecast_that_was_stopped_early_is_not_settled_either(tmp_path, capsys):
    early = {"after": 40, "of": 90, "confidence": 0.95}
    said = printed(forecast_result(likely_parts(40, 6), stopped_early=early), tmp_path, capsys)
    assert "Ended early, after 40 of 90 requests: the same layer in 95% of the resamples." in said
    assert "settled" not in said


def test_a_forecast_without_rephrases_has_no_column_for_them(tmp_path, capsys):
    parts = likely_parts(40, 6)
    assert "sation ┃" in printed(forecast_result(parts), tmp_path, capsys)
    parts[:, 1] = torch.nan
    said = printed(forecast_result(parts), tmp_path, capsys)
    assert "sation ┃" not in said
    assert "Not in the score, for the requests have no prompts for it: generalisation." in said
    assert "n/a" not in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Golden layer: 3, within 1.0 point of the best layer with 96%, after 24 edits. Files:"),
        ({"confidence": 1.0, "tolerance": 2.0}, "within 2.0 points of the best layer with 99%, after 24 edits."),
        (
            {"settled": False, "ended": "budget", "confidence": 0.8199},
            "within 1.0 point of the best layer with 81% only: the budget of 24 edits is used up; more: --verify.budget N.",
        ),
        (
            {"settled": False, "ended": "budget", "settings": {"budget": 30}},
            "only: the budget of 30 edits is used up; more: --verify.budget N.",
        ),
        (
            {"settled": False, "ended": "budget", "settings": {"budget": "5 min"}},
            "only: the budget of 5 min is used up, after 24 edits; more: --verify.budget 'N min'.",
        ),
        (
            {"settled": False, "ended": "requests"},
            "only: all 12 requests are used up; give more (--data.requests, --data.limit).",
        ),
        ({"layers": [1, 2, 3]}, "Golden layers: 1-3, within 1.0 point of the best window with 96%, after 24 edits."),
    ],
)
def test_a_race_says_how_sure_the_layer_is(changes, expected, tmp_path, capsys):
    race = race_result(3, [0, 4, 8, 12, 0, 0], **changes)
    forecast, other = (
        make(likely_parts(40, 6)) for make in (forecast_result, lambda parts: locator_result(parts[:, 0]))
    )
    for result, alone in ((forecast, "The forecast alone named"), (other, "LGA alone named")):
        said = printed(replace(result, race=race), tmp_path, capsys)
        assert expected in said
        assert f"{alone} layer {result.choice.golden_layer}: " in said
        assert "The race made 24 edits of 12 requests, in 61.2 s." in said
        assert "3 (golden)" in said
        assert "not verified" not in said
        assert "not settled" not in said


def test_the_table_of_a_forecast_fits_a_terminal(tmp_path, capsys):
    scores, intervals = [50.0] * 13 + [60.0], [(47.0, 53.0)] * 14
    race = race_result(11, [0] * 8 + [4, 8, 12, 100, 8, 0], scores=scores, intervals=intervals)
    print_attribution(forecast_result(likely_parts(40, 14), race=race), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert len(rows) == 8  # a line a layer
    assert [row[0] for row in rows[:2]] == ["11 (golden)", "13"]  # the winner, then by score after the race
    assert rows[0][1:3] == ["50.0", "47…53"]
    assert rows[0][-1] == "100"  # edits made
    assert not any("…" in line for line in lines if line.startswith("┃"))  # no heading is cut
    assert max(map(len, lines[1:16])) <= 80


def test_a_sweep_over_some_layers_lists_these_alone(tmp_path, capsys):
    found = partial_sweep(likely_parts(40, 14), [3, 5, 9])
    print_attribution(found, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    golden, *others = sorted([3, 5, 9], key=lambda layer: -found.choice.scores[layer])
    assert [row[0] for row in rows] == [f"{golden} (golden)", *map(str, others)]
    assert [row[1] for row in rows] == [f"{100 * found.choice.scores[layer]:.1f}" for layer in (golden, *others)]


def test_narrow_terminals_lose_lines_and_intervals_but_no_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    found = forecast_result(likely_parts(48, 18))
    found = replace(found, race=race_result(found.golden_layer, [1] * 18))
    others = {"generated": (0.0, 1.0), "contained": (0.1234, 1.0), "contained_in_context": (0.0, 1.0)}
    scores = {"token": (0.0, 1.0), **others}
    groups = ("rewrite", "locality", "locality.relation_specificity", "portability.subject_aliasing")
    outcomes = [[EvalResult(group, "Q", ("A",), scores, ("x", "A")) for group in groups]] * 3
    print_attribution(found, Path("run"))
    print_edits(validation(outcomes))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 60
    assert "(golden)" in said
    numbers = [line.split() for line in said.splitlines() if line.lstrip().startswith(f"{found.golden_layer} (golden)")]
    assert len(numbers[0]) == 7  # layer, (golden), score, three metrics, edits made
    assert "0.123" in said
    assert not re.search(r"[0-9a-z]…(?![0-9])", said)  # nothing is cut


def test_no_colours_where_they_are_not_wanted(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if there were a terminal
    print_attribution(locator_result(torch.randn(9, 5)), tmp_path)
    assert not re.search("\x1b\\[[0-9;]*3[0-9]", capsys.readouterr().out)


def test_fences_that_leave_out_nothing_say_so(tmp_path, capsys):
    torch.manual_seed(0)  # of other draws the fences may leave out a second layer
    calm, wild = torch.randn(9, 5), torch.cat([torch.randn(9, 5), torch.full((9, 1), 1e6)], 1)
    assert "The Tukey fences (kappa = 1) leave out no layer." in printed(locator_result(calm * 0 + 1), tmp_path, capsys)
    assert "leave out layer 5" in printed(locator_result(wild), tmp_path, capsys)


MARKUP = "[/red] [bold]x[/bold] :smile: \\[y]"


def test_data_is_no_markup(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    relations = RelationLayers([MARKUP, "language"], [20, 20], [1, 2], [0.5, 0.75], 0.01)
    result = locator_result(
        torch.randn(40, 3),
        model=f"m {MARKUP}",
        data=f"d {MARKUP}",
        num_skipped={MARKUP: 2},
        relations=relations,
    )
    root = tmp_path / "[/red]"
    print_attribution(result, root)
    said = " ".join(capsys.readouterr().out.split())
    for expected in (f"LGA on m {MARKUP}, 40 requests of d {MARKUP}", f"2 ({MARKUP})", f"{root}/report.html"):
        assert expected in said
    assert said.count(MARKUP) == 4
    scores = {"token": (0.0, 1.0)}
    outcomes = [[EvalResult("rewrite", "Q", ("A",), scores), EvalResult(f"locality.{MARKUP}", "Q", ("A",), scores)]]
    edits = validation(
        outcomes,
        model_name=f"m {MARKUP}",
        data_name=f"d {MARKUP}",
        layer_source=f"golden layer of {root}",
        mode="batch",
    )
    print_edits(replace(edits, drift=[*edits.drift] * 2))
    print_places(edits, root / "validation.json")
    print_written(edits, root, merged=False)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(MARKUP) == 3  # model, data, and the kind of locality
    assert said.count(f"Layer 3: golden layer of {root}.") == 2
    assert said.count(str(root)) == 6


def test_pictures_of_names_with_dollar_signs(tmp_path):
    columns = {f"{kind}.{group}": [0.1] * 5 for kind in KINDS for group in GROUPS}
    result = locator_result(
        torch.randn(6, 5), model="$x_{$", data="$", means=columns, half_widths=columns, settings={"window": 3}
    )
    draw_layers(result, tmp_path / "layers.png")
    draw_heat_map(result, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").is_file()


def test_data_commands_no_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    evil = "\x1b]0;title\x07\x1b[2J"
    relations = RelationLayers([evil, "language"], [20, 20], [1, 2], [0.5, 0.75], 0.01)
    result = locator_result(
        torch.randn(40, 3), model=f"m {evil}", data=evil, num_skipped={evil: 2}, relations=relations
    )
    print_attribution(result, tmp_path / evil)
    leave_comparison(comparison(model=evil, name=evil, data=evil), tmp_path)
    outcomes = [[EvalResult(f"locality.{evil}", "Q", ("A",), {"token": (0.0, 1.0)})]]
    edits = validation(outcomes, model_name=evil, data_name=evil, layer_source=evil)
    print_edits(edits)
    print_places(edits, tmp_path / evil / "validation.json")
    print_facts([[EvalResult("rewrite", evil, (evil,), {"token": (0.0, 1.0)}, said=(evil, evil))]])
    said = capsys.readouterr().out
    assert said.count("�") > 12
    assert "\x1b" not in said
    assert "\x07" not in said
