"""The picture of the layers."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.reports.curves import Curve, axis_limits, golden_span, has_curves, mean_curve, metric_curves
from lga_lightning.reports.wording import (
    OUTSIDE_FENCES,
    WITHIN_FENCES,
    basis_in_words,
    counted,
    headline,
    layers_on_axis,
    score_in_words,
)
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.utils.io import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

PICTURE_FILE = "layers.png"
# by part of an edit's score: colour, line and marker, which can be told apart in grey too
STYLES = {"rewrite": ("#0072B2", "-", "o"), "rephrase": ("#D55E00", "--", "s"), "locality": ("#009E73", "-.", "^")}


def draw_layers(result: LocatorResult, path: Path, sweep: LocatorResult | None = None) -> None:
    """Draw the layers and the golden one.

    Scores of edits, forecast or those of a sweep, are a curve for each metric with its 95% band, and with points for the edits of a
    race; the evidence of any other locator is a bar for each layer with its standard error, and the fences.

    Args:
        result: Scores of the layers, and the choice.
        path: Where the PNG is to appear.
        sweep: A sweep of the same model, to be drawn over curves as hollow points.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.4 if has_curves(result) else 5), layout="constrained")
    axes = figure.subplots()
    legend = _draw_curves(axes, result, sweep) if has_curves(result) else _draw_bars(axes, result)
    layers = len(result.choice.scores)
    axes.set_xlim(-0.7, layers - 0.3)
    axes.set_xticks(list(range(layers))[:: max(1, layers // 40)])
    axes.set_xlabel(layers_on_axis(result))
    axes.set_ylabel(score_in_words(result))
    title = "\n".join(textwrap.fill(line, 110) for line in (headline(result), basis_in_words(result)))
    pad = 20 if has_curves(result) else 6  # the golden layer's name stands between
    axes.set_title(plain(title), fontsize=11, pad=pad)
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    write_whole(path, lambda scratch: figure.savefig(scratch, dpi=150))


def _draw_curves(axes: Axes, result: LocatorResult, sweep: LocatorResult | None) -> list[Artist]:
    """Draw what edits score by metric; returns the entries of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    curves, (name, means) = metric_curves(result, sweep), mean_curve(result)
    first, last, golden = golden_span(result)
    axes.axvspan(first - 0.5, last + 0.5, color="goldenrod", alpha=0.28, linewidth=0)
    above: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 9}
    axes.text((first + last) / 2, 1.01, golden, **above)
    legend = [_draw_metric(axes, curve, result) for curve in curves]
    dots = "" if all(map(math.isfinite, means)) else "."  # of a layer between two that have no score
    legend += axes.plot(range(len(means)), means, color="black", linewidth=1, marker=dots, label=name)
    legend.append(Patch(color="grey", alpha=0.25, label="95% interval over requests"))
    legend.append(Patch(color="goldenrod", alpha=0.28, label=golden))
    if result.race is not None:
        label = f"real edits (larger: more, up to {max(result.race.edited)})"
        legend.append(Line2D([], [], color="dimgrey", marker="o", markeredgecolor="black", linestyle="", label=label))
        forecast = result.choice.golden_layer
        if forecast != result.golden_layer:
            label = f"layer of the forecast alone: {forecast}"
            legend.append(axes.axvline(forecast, color="grey", linestyle=":", linewidth=1.2, label=label))
    if sweep is not None:
        label = f"sweep of {counted(sweep.num_requests, 'request')}"
        legend.append(Line2D([], [], color="dimgrey", marker="o", fillstyle="none", linestyle="", label=label))
    axes.set_ylim(*axis_limits(curves, means))
    axes.grid(axis="y", color="lightgrey", linewidth=0.6)
    axes.set_axisbelow(True)
    return legend


def _draw_metric(axes: Axes, curve: Curve, result: LocatorResult) -> Artist:
    """Draw a curve with its band, and the points of a race and of a sweep; returns its entry of the legend."""
    from matplotlib.lines import Line2D

    layers = range(len(curve.values))
    colour, dashes, marker = STYLES[curve.part]
    axes.fill_between(layers, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    line: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.8, "markersize": 5}
    axes.plot(layers, curve.values, marker=marker if result.is_sweep else "", **line)
    if result.race is not None:
        most = max(*result.race.edited, 1)
        sizes = [16 + 84 * edits / most for edits in result.race.edited]
        axes.scatter(layers, curve.real, s=sizes, c=colour, marker=marker, edgecolor="black", linewidth=0.7, zorder=4)
    if curve.sweep:
        axes.scatter(layers, curve.sweep, s=26, c="none", marker=marker, edgecolor=colour, zorder=3)
    has_points = result.is_sweep or curve.real or curve.sweep
    return Line2D([], [], marker=marker if has_points else "", label=curve.label, **line)


def _draw_bars(axes: Axes, result: LocatorResult) -> list[Artist]:
    """Draw the score of every layer with its standard error, and the fences; returns the entries of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    choice = result.choice
    layers = range(len(choice.scores))
    kept = [layer for layer in layers if layer not in choice.excluded]
    # the axis shows what the choice is made from: everything within the fences, with its errors
    errors = [error if error == error else 0.0 for error in choice.standard_errors]
    fences = [choice.fences.lower, choice.fences.upper] if choice.fences else []
    low = min([*fences, *(choice.scores[k] - errors[k] for k in kept)])
    high = max([*fences, *(choice.scores[k] + errors[k] for k in kept)])
    margin = 0.12 * (high - low or 1.0)
    low, high = low - margin, high + margin

    if fences:
        axes.axhspan(*fences, color="tab:blue", alpha=0.08)
    axes.axhline(0, color="black", linewidth=0.6)
    for layer in layers:
        score = choice.scores[layer]
        golden, excluded = layer == result.golden_layer, layer in choice.excluded
        colour = "goldenrod" if golden else "lightgrey" if excluded else "tab:blue"
        shown = min(max(score, low), high)
        axes.bar(layer, shown, color=colour, edgecolor="black" if golden else "none", linewidth=0.8)
        if shown == score:
            axes.errorbar(layer, score, yerr=errors[layer], color="dimgrey", capsize=2, linewidth=1)
        else:
            axes.annotate(
                f"{score:.3g}",
                (layer, shown),
                xytext=(0, -4 if score > 0 else 4),
                textcoords="offset points",
                ha="center",
                va="top" if score > 0 else "bottom",
                rotation=90,
                fontsize=8,
                color="black",
            )
    legend: list[Artist] = [
        Patch(facecolor="goldenrod", edgecolor="black", label=f"golden layer: {result.golden_layer}"),
        Line2D([], [], color="dimgrey", label="± one standard error over requests"),
    ]
    if fences:
        legend.insert(0, Patch(color="tab:blue", alpha=0.08, label=WITHIN_FENCES))
        legend.insert(2, Patch(color="lightgrey", label=OUTSIDE_FENCES))
    axes.set_ylim(low, high)
    return legend


def plain(text: str) -> str:
    """A text of the data as a picture's label, in which a dollar sign is no mathematics."""
    return text.replace("$", r"\$")
