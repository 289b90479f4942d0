"""What is drawn of forecasts and sweeps: the curves, the points, and the words around them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from lga_lightning.reports.figures import draw_layers
from lga_lightning.results.attribution import LocatorResult, means_by_layer
from tests.helpers.results import (
    forecast_result,
    likely_parts,
    locator_result,
    partial_sweep,
    race_result,
    sweep_result,
)

pytestmark = pytest.mark.usefixtures("pictures")

EDITED = [0, 0, 4, 9, 16, 4, 0, 0]
PARTS = ("rewrite", "rephrase", "locality")


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draws a picture, and gives the figure that became the file."""
    saved, save = [], Figure.savefig

    def keep(self: Figure, *args: object, **settings: object) -> None:
        saved.append(self)
        save(self, *args, **settings)

    def draw(result: LocatorResult, sweep: LocatorResult | None = None) -> Figure:
        draw_layers(result, tmp_path / "layers.png", sweep)
        assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
        return saved[-1]

    monkeypatch.setattr(Figure, "savefig", keep)
    return draw


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def curves(figure: Figure) -> list[list[float]]:
    """Heights of the lines that are as long as there are layers."""
    lines = figure.axes[0].lines
    return [list(line.get_ydata()) for line in lines if len(line.get_ydata()) > 2]


def points(figure: Figure) -> list[list[float]]:
    """Heights of the points in each scatter plot that are seen."""
    found = [part.get_offsets() for part in figure.axes[0].collections if len(part.get_offsets()) > 1]
    return [[height for _, height in places.filled(math.nan).tolist() if math.isfinite(height)] for places in found]


def test_a_forecast_is_three_curves_with_their_bands_and_the_mean(draw):
    result = forecast_result(likely_parts(40, 8), model="tiny", data="facts")
    figure, golden = draw(result), result.golden_layer
    expected = [result.means[f"expected_{part}"] for part in PARTS] + [result.choice.scores]
    assert curves(figure) == [pytest.approx([100 * value for value in column]) for column in expected]
    assert legend(figure) == [
        "expected efficacy",
        "expected generalisation",
        "expected locality",
        "expected score",
        "95% interval over requests",
        f"golden layer {golden}",
    ]
    axes, (mean, half) = (
        figure.axes[0],
        (100 * torch.tensor(c["expected_locality"]) for c in (result.means, result.half_widths)),
    )
    band = axes.collections[2].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx((mean - half).min().item(), abs=1e-3)
    assert band.max() == pytest.approx((mean + half).clamp(max=100).max().item(), abs=1e-3)
    assert points(figure) == []
    assert [patch.get_x() for patch in axes.patches] == [golden - 0.5]
    assert [text.get_text() for text in axes.texts] == [f"golden layer {golden}"]
    score = f"{100 * result.choice.scores[golden]:.1f}"
    stable = f"the same layer in {result.choice.confidence:.0%} of the resamples of the requests"
    assert axes.get_title().split("\n") == [
        f"Layer {golden} of tiny: expected score {score} (forecast from 40 requests, not verified)",
        f"EditForecast on 40 requests of facts; {stable}",
    ]


def test_a_race_adds_its_edits_and_its_confidence(draw):
    race = race_result(4, EDITED, settled=False, confidence=0.815)
    result = forecast_result(likely_parts(40, 8), model="tiny", data="facts", race=race)
    forecast = result.choice.golden_layer
    assert forecast != 4
    figure = draw(result)
    assert curves(figure)[3] == race.scores
    edited = [layer for layer, edits in enumerate(EDITED) if edits]
    assert points(figure) == [pytest.approx([100 * race.parts[part][layer] for layer in edited]) for part in PARTS]
    sizes = figure.axes[0].collections[1].get_sizes()
    assert sizes[4] > sizes[3] > sizes[2] == sizes[5]
    assert legend(figure)[3:] == [
        "expected score after the race",
        "95% interval over requests",
        "golden layer 4",
        "real edits (larger: more, up to 16)",
        f"layer of the forecast alone: {forecast}",
    ]
    assert figure.axes[0].get_title().split("\n") == [
        "Layer 4 of tiny: within 1.0 point of the best layer with 81% only, after 33 edits",
        "EditForecast on 40 requests of facts, then 33 real edits of 16 of them",
    ]


def test_a_window_is_marked_as_wide_as_it_is(draw):
    forecast = forecast_result(likely_parts(40, 8), settings={"editor": {"window": 3}})
    last = forecast.golden_layer
    assert last >= 2
    for result, first, end in (
        (forecast, last - 2, last),
        (replace(forecast, race=race_result(4, EDITED, layers=[2, 3, 4])), 2, 4),
    ):
        axes = draw(result).axes[0]
        assert [(patch.get_x(), patch.get_width()) for patch in axes.patches] == [(first - 0.5, 3.0)]
        assert [text.get_text() for text in axes.texts] == [f"golden layers {first}-{end}"]
        assert axes.get_xlabel() == "last layer of a window of 3 (block of the model, shallowest first)"


def swept(count: int = 20, layers: int = 8) -> LocatorResult:
    parts = likely_parts(count, layers, seed=3)
    means, half_widths = means_by_layer(torch.cat([parts[:, :1], parts], 1), ("scores", *PARTS))
    return sweep_result(parts.mean(1), means=means, half_widths=half_widths)


def test_a_sweep_is_drawn_over_a_forecast_or_by_itself(draw):
    sweep = swept()
    three = [pytest.approx([100 * value for value in sweep.means[part]]) for part in PARTS]
    over = draw(forecast_result(likely_parts(40, 8)), sweep)
    assert points(over) == three
    assert legend(over)[-1] == "sweep of 20 requests"
    alone = draw(sweep)
    assert curves(alone)[:3] == three
    assert legend(alone)[:4] == ["efficacy", "generalisation", "locality", "score"]
    assert not [patch for patch in alone.axes[0].patches if patch.get_width() < 1]  # no bars
    assert alone.axes[0].get_title().startswith(f"Layer {sweep.golden_layer} is the golden layer of m\nMySweep on")


def test_a_sweep_over_some_layers_is_drawn_at_these_alone(draw):
    layers = [2, 4, 6]
    figure = draw(partial_sweep(likely_parts(20, 8), layers))
    columns = curves(figure)
    assert len(columns) == 4
    for column in columns:
        assert [layer for layer, height in enumerate(column) if math.isfinite(height)] == layers
    assert all(line.get_marker() not in ("", "None") for line in figure.axes[0].lines)  # no line leads anywhere
    low, high = figure.axes[0].get_ylim()
    assert 0 < low < high


def test_without_rephrases_there_is_no_curve_for_them(draw):
    parts = likely_parts(12, 8)
    parts[:, 1] = math.nan
    race = race_result(4, EDITED)
    race.parts["rephrase"][:] = [math.nan] * 8
    figure = draw(forecast_result(parts, race=race), replace(swept(), means={part: [0.5] * 8 for part in PARTS}))
    assert legend(figure)[:3] == ["expected efficacy", "expected locality", "expected score after the race"]
    assert len(curves(figure)) == 3
    assert len(points(figure)) == 4  # two metrics, of the race and of the sweep
    assert all(math.isfinite(end) for end in figure.axes[0].get_ylim())


@pytest.mark.parametrize("parts", [likely_parts(1, 5), torch.ones(3, 3, 4), torch.zeros(3, 3, 1)])
def test_forecasts_at_the_edge(parts, draw):
    figure = draw(forecast_result(parts))
    low, high = figure.axes[0].get_ylim()
    assert low < 100 * parts.mean(0).min() <= 100 * parts.mean(0).max() < high


def test_other_locators_have_bars(draw):
    result = locator_result(torch.rand(20, 6, generator=torch.Generator().manual_seed(0)))
    figure = draw(result)
    bars = [patch.get_height() for patch in figure.axes[0].patches if patch.get_width() < 1]
    inside = [layer for layer in range(6) if layer not in result.choice.excluded]  # the others are cut off at the axis
    assert len(bars) == 6
    assert [bars[k] for k in inside] == pytest.approx([result.choice.scores[k] for k in inside])
    assert f"golden layer: {result.golden_layer}" in legend(figure)
