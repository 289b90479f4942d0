"""The classic picture of causal tracing: what each token and layer brings back of the answer."""

from __future__ import annotations

from pathlib import Path

from lga_lightning.locators.causal_tracing import GROUPS, KINDS
from lga_lightning.reports.figures import plain
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.utils.io import write_whole

HEAT_MAP_FILE = "heat_map.png"

_TITLES = {"block": "one block's output", "mlp": "{} MLP outputs", "attention": "{} attention outputs"}
_GROUPS = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first token after",
    "further tokens",
    "last token",
)
_COLOURS = {"block": "Purples", "mlp": "Greens", "attention": "Reds"}


def draw_heat_map(result: LocatorResult, path: Path) -> None:
    """Draw average indirect effects by token group and layer, and below them as curves with bands of 1.96 sigma / sqrt(n).

    Args:
        result: Result of :class:`CausalTracing` with ``heat_map``: one that ``has_heat_map``.
        path: Where the PNG is to appear.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7.5), layout="constrained")
    maps, curves = figure.subplots(2, len(KINDS), height_ratios=(1, 1.2))
    layers = list(range(len(result.choice.scores)))
    window = result.settings.get("window", "")
    share = next(iter(curves))
    for kind, above, below in zip(KINDS, maps, curves, strict=True):
        means = [result.means[f"{kind}.{group}"] for group in GROUPS]
        widths = [result.half_widths[f"{kind}.{group}"] for group in GROUPS]
        image = above.imshow(means, aspect="auto", cmap=_COLOURS[kind], interpolation="nearest")
        figure.colorbar(image, ax=above)
        above.set_yticks(range(len(GROUPS)), _GROUPS if kind == KINDS[0] else [""] * len(GROUPS))
        above.set_title(f"Restoring {_TITLES[kind].format(window)}")
        for number, (name, mean, width) in enumerate(zip(_GROUPS, means, widths, strict=True)):
            below.plot(layers, mean, label=name, color=f"C{number}")
            pairs = list(zip(mean, width, strict=True))
            below.fill_between(
                layers,
                [m - w for m, w in pairs],
                [m + w for m, w in pairs],
                color=f"C{number}",
                alpha=0.15,
                linewidth=0,
            )
        below.axhline(0, color="black", linewidth=0.6)
        below.sharey(share)
        below.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
        if kind == "mlp":
            below.axvline(result.choice.golden_layer, color="goldenrod", linestyle="--")
        for axes in (above, below):
            axes.set_xlabel("layer" if kind == "block" else f"centre of a window of {window} layers")
    share.set_ylabel("average indirect effect on p(answer)")
    figure.legend(*share.get_legend_handles_labels(), loc="outside lower center", ncols=len(GROUPS), frameon=False)
    title = (
        f"Causal tracing of {result.num_requests} known facts of {result.data} in {result.model}; "
        f"layer {result.choice.golden_layer} by the MLPs at the last subject token"
    )
    figure.suptitle(plain(title))
    write_whole(path, lambda scratch: figure.savefig(scratch, dpi=130))
