"""Scores of edits by layer and metric, forecast or real: the numbers of the pictures and tables, in points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.reports.wording import METRICS, layers_in_words
from lga_lightning.results.attribution import LocatorResult


@dataclass(frozen=True)
class Curve:
    """A metric by layer.

    Attributes:
        part: Its name in the results, as in ``rewrite``.
        name: What it is called, as in ``efficacy``.
        label: The same where it is drawn, as in ``expected efficacy``.
        values: [L] means over requests, in points; NaN where there is none.
        half_widths: [L] half of their 95% intervals, in points; 0 where a single request tells nothing of it.
        real: [L] what the edits of a race scored, in points; NaN where there was none. Empty without a race.
        sweep: [L] what a sweep scored, in points. Empty without a sweep.
    """

    part: str
    name: str
    label: str
    values: list[float]
    half_widths: list[float]
    real: list[float]
    sweep: list[float]

    @property
    def low(self) -> list[float]:
        """[L] lower ends of the intervals; none is below 0 where the mean is not."""
        pairs = zip(self.values, self.half_widths, strict=True)
        return [max(value - half, min(value, 0.0)) for value, half in pairs]

    @property
    def high(self) -> list[float]:
        """[L] upper ends of the intervals; none is above 100 where the mean is not."""
        pairs = zip(self.values, self.half_widths, strict=True)
        return [min(value + half, max(value, 100.0)) for value, half in pairs]

    @property
    def shown(self) -> list[float]:
        """All finite numbers that are drawn."""
        return [v for column in (self.low, self.high, self.real, self.sweep) for v in column if math.isfinite(v)]


def has_curves(result: LocatorResult) -> bool:
    """Whether a result's evidence is scores of edits, forecast or real, and not what only stands for them."""
    return result.is_forecast or result.is_sweep


def metric_curves(result: LocatorResult, sweep: LocatorResult | None = None) -> list[Curve]:
    """The metrics that the data has prompts for.

    Args:
        result: A result that ``has_curves``.
        sweep: A sweep of the same model, to be drawn over it.
    """
    curves = []
    for part in PARTS:
        column = f"expected_{part}" if result.is_forecast else part
        values, halves = _points(result.means[column]), _points(result.half_widths[column])
        curve = Curve(
            part=part,
            name=METRICS[part],
            label=f"{'expected ' * result.is_forecast}{METRICS[part]}",
            values=values,
            half_widths=[half if math.isfinite(half) else 0.0 for half in halves],
            real=_points(result.race.parts[part]) if result.race is not None else [],
            sweep=_points(sweep.means[part]) if sweep is not None else [],
        )
        if any(map(math.isfinite, values)):
            curves.append(curve)
    return curves


def mean_curve(result: LocatorResult) -> tuple[str, list[float]]:
    """The mean score of the layers in points, NaN where there is none, and what it is called: after a race, the belief that the edits left."""
    if result.race is not None:
        return "expected score after the race", result.edit_scores
    return "expected score" if result.is_forecast else "score", result.edit_scores


def ranking(result: LocatorResult) -> list[int]:
    """The layers that have scores, the golden one first, then in the order of the scores that are shown."""
    golden, scored = result.golden_layer, {*result.scored_layers}
    order = [layer for layer in result.choice.ranking if layer in scored]
    if result.is_forecast:
        scores = mean_curve(result)[1]
        order = sorted(order, key=lambda layer: -scores[layer])
    return [golden, *(layer for layer in order if layer != golden)]


def golden_span(result: LocatorResult) -> tuple[int, int, str]:
    """First and last of the golden blocks, and their name, as in ``golden layer 5`` or ``golden layers 4-6``."""
    layers = result.golden_layers
    return layers[0], layers[-1], f"golden {layers_in_words(layers)}"


def axis_limits(curves: Sequence[Curve], scores: Sequence[float]) -> tuple[float, float]:
    """Ends of the vertical axis: all that is drawn, with a margin of a point at least."""
    shown = [*(v for curve in curves for v in curve.shown), *filter(math.isfinite, scores)]
    low, high = min(shown), max(shown)
    margin = max(0.05 * (high - low), 1.0)
    return low - margin, high + margin


def _points(column: Sequence[float]) -> list[float]:
    return [100 * value for value in column]
