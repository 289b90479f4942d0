"""Charts for a page, as shapes in pixels: a template draws them as SVG, in the colours of its light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lga_lightning.reports.wording import layers_on_axis
from lga_lightning.results.attribution import LocatorResult

WIDTH, HEIGHT = 680, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 46

SECOND_AXIS = 48  # more on the right, where there is one

Tick = tuple[float, str, bool]  # place, text, whether it stands out


@dataclass(frozen=True)
class Scale:
    """Turns numbers into pixels.

    Attributes:
        low: The least number shown.
        high: The greatest.
        start: Pixel of the least.
        end: Pixel of the greatest.
        logarithmic: Whether equal ratios, not differences, are equally long.

    Example:
        >>> scale = Scale(0, 10, 100, 200)
        >>> scale(5), scale(99), scale.ticks()[:2]
        (150.0, 200.0, [(100.0, '0', False), (120.0, '2', False)])
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a number; of one that is out of range, the end of the axis."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start), 2)

    def ticks(self) -> list[Tick]:
        """About five round numbers."""
        rough = (self.high - self.low) / 5 or 1.0
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * 0.85)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self(step * n), f"{round(step * n, 12):.4g}", False) for n in range(first, last + 1)]


@dataclass(frozen=True)
class Bar:
    """A score: where it stands, of what kind it is, and its standard error."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    whisker: tuple[float, float] | None
    label: str = ""  # of one that is longer than the chart is high
    label_y: float = 0.0


@dataclass(frozen=True)
class Mark:
    """A point of its own: its kind, and its outline as an SVG path."""

    kind: str
    path: str


@dataclass(frozen=True)
class Line:
    """A curve: its parts between gaps, each a list of points."""

    name: str
    kind: str
    parts: list[list[tuple[float, float]]]
    right: bool = False
    dotted: bool = True  # a dot at each of its points
    mark: Mark | None = None  # in the legend, of points that go with it


@dataclass(frozen=True)
class Chart:
    """All that a template needs to draw."""

    x_name: str
    y_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[Bar] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    band: tuple[float, float] | None = None
    zero: float | None = None
    golden: tuple[float, float, str] | None = None  # left edge, width, name
    areas: list[Line] = field(default_factory=list)  # each part the outline of one
    marks: list[Mark] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)  # more of the legend: kind, words
    mark_keys: list[tuple[Mark, str]] = field(default_factory=list)
    dots: list[float] = field(default_factory=list)
    hover: list[tuple[float, float, str]] = field(default_factory=list)  # left edge, width, text
    right_name: str = ""
    right_ticks: list[Tick] = field(default_factory=list)
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def layer_chart(result: LocatorResult, y_name: str, sweep: LocatorResult | None = None) -> Chart:
    """Scores of the layers as bars with their standard errors, and a sweep's as a curve with an axis of its own.

    The axis ends where the scores within the fences do; what is longer is cut, with its number beside it.

    Args:
        result: Scores of the layers, and the choice.
        y_name: What the scores are.
        sweep: A sweep of the same model.
    """
    choice = result.choice
    count = len(choice.scores)
    errors = [_finite(error) for error in choice.standard_errors]
    end = WIDTH - RIGHT - (SECOND_AXIS if sweep is not None else 0)
    slot, centres = layer_places(count, end)
    kept = [layer for layer in range(count) if layer not in choice.excluded]
    fences = [choice.fences.lower, choice.fences.upper] if choice.fences else []
    values = [choice.scores[k] + side * errors[k] for k in kept for side in (-1, 1)]
    scale = _vertical([*values, *fences], zero=True)
    bars = [_bar(layer, result, centres[layer], 0.72 * slot, scale, errors[layer]) for layer in range(count)]
    lines: list[Line] = []
    right_name, right_ticks = "", []
    if sweep is not None:
        found = sweep.choice.scores
        right = _vertical(found, zero=False)
        lines.append(
            Line("sweep: mean of rewrite, rephrase and locality", "c1", line_parts(centres, found, right), right=True)
        )
        right_name, right_ticks = "sweep: accuracy after an edit there", right.ticks()
    return Chart(
        x_name=layers_on_axis(result),
        y_name=y_name,
        x_ticks=layer_ticks(centres, result.golden_layer),
        y_ticks=scale.ticks(),
        bars=bars,
        lines=lines,
        band=(scale(fences[1]), scale(fences[0])) if fences else None,
        zero=scale(0) if scale.low <= 0 <= scale.high else None,
        dots=[] if result.verified else [centres[k] for k in choice.confidence_set],
        hover=[
            (round(centres[k] - slot / 2, 2), round(slot, 2), _said_of(k, result, errors[k], sweep))
            for k in range(count)
        ],
        right_name=right_name,
        right_ticks=right_ticks,
        right=end,
    )


def drift_chart(
    edits: Sequence[int],
    columns: Mapping[str, Sequence[float]],
    y_name: str = "token accuracy of the facts edited so far",
) -> Chart:
    """Accuracies against the number of edits in place; the axis is logarithmic where they span more than a factor of 20.

    Args:
        edits: N numbers of edits, ascending.
        columns: By name, N accuracies; at most five are told apart by colour.
        y_name: What they are.
    """
    logarithmic = edits[-1] > 20 * edits[0] > 0
    along = Scale(edits[0], edits[-1], LEFT + 12, WIDTH - RIGHT - 12, logarithmic)
    scale = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    places = [along(number) for number in edits]
    edges = [LEFT, *((one + two) / 2 for one, two in pairwise(places)), WIDTH - RIGHT]
    return Chart(
        x_name="edits in place" + (" (logarithmic)" if logarithmic else ""),
        y_name=y_name,
        x_ticks=[(place, str(number), False) for place, number in zip(places, edits, strict=True)],
        y_ticks=scale.ticks(),
        lines=[
            Line(n, f"c{i % 5}", line_parts(places, column, scale)) for i, (n, column) in enumerate(columns.items())
        ],
        hover=[
            (
                round(edges[i], 2),
                round(edges[i + 1] - edges[i], 2),
                f"{number} edits: " + ", ".join(f"{name} {_short(column[i])}" for name, column in columns.items()),
            )
            for i, number in enumerate(edits)
        ],
    )


def _bar(layer: int, result: LocatorResult, centre: float, width: float, scale: Scale, error: float) -> Bar:
    choice = result.choice
    score, zero = choice.scores[layer], scale(0)
    tip = scale(score)
    cut = not scale.low <= score <= scale.high
    kind = (
        "golden"
        if layer == result.golden_layer
        else "out"
        if layer in choice.excluded
        else "alternative"
        if layer in choice.confidence_set
        else "layer"
    )
    return Bar(
        x=round(centre - width / 2, 2),
        y=min(tip, zero),
        width=round(width, 2),
        height=round(abs(tip - zero), 2),
        kind=kind,
        whisker=(scale(score + error), scale(score - error)) if error and not cut else None,
        label=(f"{score:,.0f}" if 100 <= abs(score) < 1e6 else f"{score:.3g}") if cut else "",
        label_y=tip + (6 if score > 0 else -6),
    )


def _said_of(layer: int, result: LocatorResult, error: float, sweep: LocatorResult | None) -> str:
    choice = result.choice
    role = " (golden)" if layer == result.golden_layer else " (outside the fences)" if layer in choice.excluded else ""
    said = f"Layer {layer}{role}: {choice.scores[layer]:.4g}" + (f" ± {error:.2g}" if error else "")
    if sweep is not None:
        said += f"; sweep {sweep.choice.scores[layer]:.3f}"
    return said


def _vertical(values: Sequence[float], zero: bool) -> Scale:
    low, high = min(values), max(values)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return Scale(low - margin * (low < 0 or not zero), high + margin, HEIGHT - BOTTOM, TOP)


def layer_places(count: int, end: float) -> tuple[float, list[float]]:
    """Width of a layer in pixels, and the centres of all of them.

    Args:
        count: How many layers there are.
        end: Right end of the axis.
    """
    slot = (end - LEFT) / count
    return slot, [round(LEFT + slot * (layer + 0.5), 2) for layer in range(count)]


def layer_ticks(centres: Sequence[float], golden: int) -> list[Tick]:
    """At most about 24 layers by number, the golden one among them, which stands out."""
    step = max(1, math.ceil(len(centres) / 24))
    named = [k for k in range(0, len(centres), step) if k == golden or abs(k - golden) >= step] + [golden]
    return [(centres[k], str(k), k == golden) for k in sorted(set(named))]


def line_parts(places: Sequence[float], column: Sequence[float], scale: Scale) -> list[list[tuple[float, float]]]:
    """A curve's points, in parts between the numbers that are missing."""
    parts: list[list[tuple[float, float]]] = [[]]
    for place, value in zip(places, column, strict=True):
        if not math.isfinite(value):
            parts.append([])
        else:
            parts[-1].append((place, scale(value)))
    return [part for part in parts if part]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _short(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "n/a"
