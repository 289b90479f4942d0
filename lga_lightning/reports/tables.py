"""Rows and cells of tables that the terminal and the page share."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.reports.curves import metric_curves
from lga_lightning.results.ability import AbilityResult
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.retention import Cohort, GrowthPoint
from lga_lightning.results.validation_parts import DriftPoint

RELATION_HEADINGS = ("relation", "requests", "layer", "confidence")
HUGE = 1e9  # a perplexity may be as large


def number(value: float, decimals: int | None = None) -> str:
    """A number as it is shown; with four digits where the decimals are left open, or it is a huge one, as of a broken model.

    Example:
        >>> number(0.12345), number(0.12345, 2), number(1e70, 2), number(float("nan"))
        ('0.1235', '0.12', '1e+70', 'n/a')
    """
    if math.isnan(value):
        return "n/a"
    return f"{value:.{decimals}f}" if decimals is not None and abs(value) < HUGE else f"{value:.4g}"


def listed_means(result: LocatorResult) -> dict[str, list[float]]:
    """The columns of means that stand beside the scores; those of a heat map are drawn, not listed."""
    return {} if result.has_heat_map else result.means


def edit_table(result: LocatorResult, whole: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, in the order of the layers, of what edits score, or are expected to, in points.

    Args:
        result: A forecast or a sweep, before or after a race.
        whole: With the intervals of every metric and the locator's other columns; otherwise what fits a terminal.
    """
    scores, ends = result.edit_scores, result.edit_intervals
    score = "expected score" if result.is_forecast else "score"
    columns = {"layer": [f"{k}{' (golden)' * (k == result.golden_layer)}" for k in range(len(scores))]}
    if whole:
        columns[score] = _beside(scores, ends)
    else:
        columns |= {
            score: [number(v, 1) for v in scores],
            "95% interval": [_interval(*pair) for pair in ends],
        }
    for curve in metric_curves(result):
        ends = [*zip(curve.low, curve.high, strict=True)] if whole else []
        columns[curve.name] = _beside(curve.values, ends)
    if result.race is not None:
        columns["edits made"] = list(map(str, result.race.edited))
    if whole:
        others = {name: c for name, c in result.means.items() if name not in PARTS and not name.startswith("expected_")}
        columns |= {name.replace("_", " "): list(map(number, column)) for name, column in others.items()}
    return [*columns], [list(row) for row in zip(*columns.values(), strict=True)]


def _beside(values: Sequence[float], ends: Sequence[tuple[float, float]]) -> list[str]:
    """Points, with the ends of their intervals where there are any."""
    if not ends:
        return [number(value, 1) for value in values]
    pairs = zip(values, map(_interval, *zip(*ends, strict=True)), strict=True)
    return [f"{number(value, 1)} ({interval})" if interval else number(value, 1) for value, interval in pairs]


def _interval(low: float, high: float) -> str:
    """Ends in whole points; "" where there is nothing between them."""
    return f"{low:.0f}…{high:.0f}" if low < high else ""


def relation_rows(found: RelationLayers) -> list[list[str]]:
    """A row for each relation, under ``RELATION_HEADINGS``."""
    columns = (found.relations, found.num_requests, found.golden_layers, found.confidences)
    return [
        [name, str(count), str(layer), f"{confidence:.0%}"]
        for name, count, layer, confidence in zip(*columns, strict=True)
    ]


def metric_label(name: str, names: Collection[str]) -> tuple[str, bool]:
    """How a metric is called in a table, and whether it is shown as a part of its family.

    Args:
        name: Name of the metric, as in ``locality.neighborhood``.
        names: Names of all metrics in the table.

    Example:
        >>> metric_label("locality.one_hop", ["locality", "locality.one_hop"]), metric_label("counterfact.ES", [])
        (('one hop', True), ('counterfact.ES', False))
    """
    family, _, kind = name.partition(".")
    return (kind.replace("_", " "), True) if kind and family in names else (name, False)


def drift_table(points: Sequence[DriftPoint]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the drift curve's numbers."""
    names = [name for name in points[-1].scores if "." not in name]
    rows = [
        [
            str(point.edits),
            *(number(point.scores.get(name, math.nan), 3) for name in names),
            f"{point.largest_change:.1%}",
        ]
        for point in points
    ]
    return ["edits", *names, "largest change of a weight"], rows


def cohort_table(cohorts: Sequence[Cohort]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of what became of early facts: a row for each cohort and number of edits."""
    found = dict.fromkeys(name for cohort in cohorts for point in cohort.points for name in point.scores)
    names = [name for name in found if "." not in name]
    rows = [
        [
            cohort_label(cohort),
            str(point.edits),
            *(number(point.scores.get(name, math.nan), 3) for name in names),
        ]
        for cohort in cohorts
        for point in cohort.points
    ]
    return ["facts", "edits in place", *names], rows


def cohort_label(cohort: Cohort) -> str:
    """The facts of a cohort by the numbers of their edits.

    Example:
        >>> cohort_label(Cohort(10, 73, [72, 73, 74])), cohort_label(Cohort(1, 1, [0]))
        ('73-75', '1')
    """
    last = cohort.first_edit + len(cohort.index) - 1
    return f"{cohort.first_edit}-{last}" if last > cohort.first_edit else str(cohort.first_edit)


def growth_table(points: Sequence[GrowthPoint]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of speed and memory."""
    headings = ["edits", "seconds", "edits a minute", "memory, MB"]
    rows = [
        [str(p.edits), *(f"{value:,.1f}" for value in (p.seconds, p.edits_per_minute, p.memory_mb))] for p in points
    ]
    if points[-1].device_peak_mb is not None:
        headings.append("accelerator's peak, MB")
        rows = [[*row, number(p.device_peak_mb or math.nan, 1)] for row, p in zip(rows, points, strict=True)]
    return headings, rows


ABILITY_HEADINGS = ("ability", "items", "before", "after", "after / before")


def ability_rows(result: AbilityResult) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """A row for each ability: its name, the number of items, and pairs of a mean and its interval: before, after, ratio."""
    return [
        (name, str(score.num_items), [(number(mean, 3), _between(ends)) for mean, ends in score.sides])
        for name, score in result.scores.items()
    ]


def _between(ends: Sequence[float]) -> str:
    """The ends of an interval; nothing where it is not known."""
    return "" if any(map(math.isnan, ends)) else "…".join(number(end, 2) for end in ends)


def settings_rows(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Settings as pairs, those within others under both names.

    Example:
        >>> settings_rows({"scope": "mlp", "editor": {"steps": 3}})
        [('scope', 'mlp'), ('editor.steps', '3')]
    """
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        nested = isinstance(value, Mapping)
        rows += settings_rows(value, f"{before}{name}.") if nested else [(f"{before}{name}", str(value))]
    return rows
