"""The chart of a result whose scores are those of edits: a curve for each metric, its band, and points for real edits."""

from __future__ import annotations

import math

from lga_lightning.reports.curves import Curve, axis_limits, golden_span, mean_curve, metric_curves
from lga_lightning.reports.svg import (
    BOTTOM,
    HEIGHT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    Mark,
    Scale,
    layer_places,
    layer_ticks,
    line_parts,
)
from lga_lightning.reports.tables import number
from lga_lightning.reports.wording import counted, layers_on_axis
from lga_lightning.results.attribution import LocatorResult

KINDS = {"rewrite": "c4", "rephrase": "c1 dashed", "locality": "c2 dashdot"}
"""By part of an edit's score: the classes of its curve on the page."""
KEY = (15.0, 6.0, 3.5)
"""Where a mark stands in its key of the legend, and how large it is."""


def curve_chart(result: LocatorResult, y_name: str, sweep: LocatorResult | None = None) -> Chart:
    """Scores of edits by metric and layer, in points.

    Args:
        result: A forecast, or a sweep.
        y_name: What the scores are.
        sweep: A sweep of the same model, drawn as hollow points.
    """
    curves, (name, means) = metric_curves(result, sweep), mean_curve(result)
    end, top = WIDTH - RIGHT, TOP + 8  # the golden layer's name stands above
    slot, centres = layer_places(len(means), end)
    scale = Scale(*axis_limits(curves, means), HEIGHT - BOTTOM, top)
    first, last, golden = golden_span(result)
    marks = [mark for curve in curves for mark in _marks(curve, centres, scale, result)]
    in_legend = {part: Mark(kind.split()[0], outline(part, *KEY)) if marks else None for part, kind in KINDS.items()}
    lines = [
        Line(c.label, KINDS[c.part], line_parts(centres, c.values, scale), False, False, in_legend[c.part])
        for c in curves
    ]
    gaps = not all(map(math.isfinite, means))
    lines.append(Line(name, "c0 thin", line_parts(centres, means, scale), dotted=gaps))
    return Chart(
        x_name=layers_on_axis(result),
        y_name=y_name,
        x_ticks=layer_ticks(centres, result.golden_layer),
        y_ticks=scale.ticks(),
        lines=lines,
        golden=(round(centres[first] - slot / 2, 2), round(slot * (last - first + 1), 2), golden),
        areas=[Line(c.label, KINDS[c.part], _band(centres, c, scale)) for c in curves],
        marks=marks,
        keys=[("shade", "95% interval over requests"), ("goldband", golden)],
        mark_keys=_mark_keys(result, sweep),
        dots=[] if result.verified else [centres[k] for k in result.choice.confidence_set],
        hover=[
            (round(centres[k] - slot / 2, 2), round(slot, 2), _said_of(k, result, curves, name, means[k]))
            for k in range(len(means))
        ],
        right=end,
        top=top,
    )


def outline(part: str, x: float, y: float, radius: float) -> str:
    """The mark of a metric as an SVG path: a circle, a square or a triangle.

    Args:
        part: The metric's name in the results.
        x: Pixel of its centre from the left.
        y: Pixel of its centre from the top.
        radius: Its size, in pixels.
    """
    r = round(radius, 2)
    if part == "rewrite":
        return f"M{x - r:g} {y:g}a{r} {r} 0 1 0 {2 * r:g} 0a{r} {r} 0 1 0 {-2 * r:g} 0z"
    if part == "rephrase":
        return f"M{x - r:g} {y - r:g}h{2 * r:g}v{2 * r:g}h{-2 * r:g}z"
    return f"M{x:g} {y - 1.2 * r:g}l{1.2 * r:g} {2.1 * r:g}h{-2.4 * r:g}z"


def _marks(curve: Curve, centres: list[float], scale: Scale, result: LocatorResult) -> list[Mark]:
    """Points of a metric: those of a sweep hollow, or filled where it is the result itself; those of a race by their number."""
    kind, sizes = KINDS[curve.part].split()[0], [3.0] * len(centres)
    groups = [(curve.sweep, f"{kind} hollow", sizes)]
    if result.is_sweep:
        groups = [(curve.values, kind, [2.5] * len(centres))]
    if result.race is not None:
        most = max(*result.race.edited, 1)
        groups.append((curve.real, f"{kind} real", [2.5 + 3 * math.sqrt(edits / most) for edits in result.race.edited]))
    return [
        Mark(of_kind, outline(curve.part, x, scale(value), size))
        for column, of_kind, radii in groups
        for x, value, size in zip(centres, column, radii, strict=False)  # a column may be empty
        if math.isfinite(value)
    ]


def _mark_keys(result: LocatorResult, sweep: LocatorResult | None) -> list[tuple[Mark, str]]:
    keys = []
    if result.race is not None:
        said = f"real edits (larger: more, up to {max(result.race.edited)})"
        keys.append((Mark("c0 real", outline("rewrite", *KEY)), said))
    if sweep is not None:
        said = f"sweep: real edits of {counted(sweep.num_requests, 'request')} at every layer"
        keys.append((Mark("c0 hollow", outline("rewrite", *KEY)), said))
    return keys


def _band(centres: list[float], curve: Curve, scale: Scale) -> list[list[tuple[float, float]]]:
    above, below = (line_parts(centres, column, scale) for column in (curve.high, curve.low))
    return [[*top, *reversed(bottom)] for top, bottom in zip(above, below, strict=True)]


def _said_of(layer: int, result: LocatorResult, curves: list[Curve], name: str, mean: float) -> str:
    low, high = result.edit_intervals[layer]
    between = f" ({low:.1f} to {high:.1f})" if math.isfinite(low) and math.isfinite(high) else ""
    said = f"Layer {layer}{' (golden)' * (layer == result.golden_layer)}: {name} {number(mean, 1)}{between}"
    said += "".join(f", {curve.label} {number(curve.values[layer], 1)}" for curve in curves)
    edits = result.race.edited[layer] if result.race is not None else 0
    if edits:
        real = ", ".join(f"{curve.name} {number(curve.real[layer], 1)}" for curve in curves)
        said += f"; {counted(edits, 'real edit')}: {real}"
    if any(curve.sweep for curve in curves):
        said += "; sweep: " + ", ".join(f"{curve.name} {number(curve.sweep[layer], 1)}" for curve in curves)
    return said
