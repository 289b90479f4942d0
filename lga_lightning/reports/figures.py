"""The picture of the layers."""

from __future__ import annotations

from pathlib import Path

from lga_lightning.reports.wording import (
    LAYER_AXIS,
    OUTSIDE_FENCES,
    WITHIN_FENCES,
    confidence_in_words,
    headline,
    score_in_words,
)
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.utils.io import write_whole

PICTURE_FILE = "layers.png"


def draw_layers(result: LocatorResult, path: Path) -> None:
    """Draw the score of every layer with its standard error, the fences, and the golden layer.

    Args:
        result: Scores of the layers, and the choice.
        path: Where the PNG is to appear.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    choice = result.choice
    layers = range(len(choice.scores))
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
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
        golden, excluded = layer == choice.golden_layer, layer in choice.excluded
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
    legend = [
        Patch(facecolor="goldenrod", edgecolor="black", label=f"golden layer: {choice.golden_layer}"),
        Line2D([], [], color="dimgrey", label="± one standard error over requests"),
    ]
    if fences:
        legend.insert(0, Patch(color="tab:blue", alpha=0.08, label=WITHIN_FENCES))
        legend.insert(2, Patch(color="lightgrey", label=OUTSIDE_FENCES))
    axes.set_ylim(low, high)
    axes.set_xlim(-0.7, len(choice.scores) - 0.3)
    axes.set_xticks(list(layers)[:: max(1, len(choice.scores) // 40)])
    axes.set_xlabel(LAYER_AXIS)
    axes.set_ylabel(score_in_words(result))
    scope = f" over {result.scope}" if result.scope not in (None, "value") else ""
    title = (
        f"{headline(result)}\n{result.locator}{scope} on {result.num_requests} requests of {result.data}; "
        f"{confidence_in_words(choice)}"
    )
    axes.set_title(plain(title))
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    write_whole(path, lambda scratch: figure.savefig(scratch, dpi=150))


def plain(text: str) -> str:
    """A text of the data as a picture's label, in which a dollar sign is no mathematics."""
    return text.replace("$", r"\$")
