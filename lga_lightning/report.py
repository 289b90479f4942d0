"""What a person sees: the picture of the layers, and the tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lga_lightning.aggregation import RelationLayers
from lga_lightning.covariance import MomentKey
from lga_lightning.files import write_whole
from lga_lightning.results import SIDES, Attribution


def draw_layers(attribution: Attribution, path: Path) -> None:
    """Draw the score of every layer with its standard error, the fences, and the golden layer.

    Args:
        attribution: The result.
        path: Where the PNG is to appear.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    choice = attribution.choice
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
        legend.insert(0, Patch(color="tab:blue", alpha=0.08, label="within the Tukey fences"))
        legend.insert(2, Patch(color="lightgrey", label="outside the fences: left out"))
    axes.set_ylim(low, high)
    axes.set_xlim(-0.7, len(choice.scores) - 0.3)
    axes.set_xticks(list(layers)[:: max(1, len(choice.scores) // 40)])
    axes.set_xlabel("layer (block of the model, shallowest first)")
    axes.set_ylabel(score_in_words(attribution))
    scope = f" over {attribution.scope}" if attribution.scope else ""
    axes.set_title(
        f"Layer {choice.golden_layer} is the golden layer of {attribution.model}\n"
        f"{attribution.locator}{scope} on {attribution.num_requests} requests of {attribution.data}; "
        f"chosen in {choice.confidence:.0%} of bootstrap resamples"
    )
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    write_whole(path, lambda scratch: figure.savefig(scratch, dpi=150))


def score_in_words(attribution: Attribution) -> str:
    """What the vertical axis shows."""
    if attribution.aggregate == "mean":
        return "score: mean over requests"
    measure = attribution.settings.get("measure", "dot" if attribution.scope else "scores")
    measure = {"dot": "⟨$g_{old}$, $g_{new}$⟩", "new_norm": "|$g_{new}$|"}.get(measure, measure)
    if attribution.aggregate.startswith("magnitude"):
        measure = f"|{measure}|"
    way = attribution.aggregate.removeprefix("magnitude").removeprefix("_")
    shared = f", ± {attribution.neighbours} layers" if attribution.neighbours else ""
    return f"score: sum over requests of {measure}" + (f", as {way}" if way not in ("", "sum") else "") + shared


def print_attribution(attribution: Attribution, root: Path, top: int = 8) -> None:
    """Print the best layers and how sure the choice is.

    Args:
        attribution: The result.
        root: Folder in which the files were left.
        top: How many layers to print.
    """
    choice = attribution.choice
    console = Console()
    table = Table(
        title=f"{attribution.locator} on {attribution.model}, {attribution.num_requests} requests of {attribution.data}"
    )
    means = attribution.means if len(attribution.means) <= 4 else {}  # those of a heat map are drawn, not listed
    for heading in ("layer", "score", "± standard error", *means):
        table.add_column(heading.replace("_", " "), justify="right")
    for place, layer in enumerate(choice.ranking[:top]):
        table.add_row(
            f"{layer} (golden)" if place == 0 else f"{layer} (outlier)" if layer in choice.excluded else str(layer),
            f"{choice.scores[layer]:.4g}",
            f"{choice.standard_errors[layer]:.2g}",
            *(f"{column[layer]:.4g}" for column in means.values()),
            style="bold yellow" if place == 0 else None,
        )
    console.print(table)
    for remark in remarks(attribution):
        console.print(remark)
    if attribution.relations is not None:
        _print_relations(console, attribution.relations, choice.golden_layer)
    others = ", ".join(map(str, choice.confidence_set))
    console.print(
        f"[bold]Golden layer: {choice.golden_layer}[/bold], chosen in {choice.confidence:.0%} of bootstrap resamples; "
        f"90% of them choose among the layers {others}."
    )
    if not choice.settled:
        console.print(f"[bold]The choice is not settled.[/bold] {what_would_settle(attribution)}")
    console.print(
        f"Files: {root}/report.html, attribution.json, layers.png, attribution.ckpt", highlight=False, soft_wrap=True
    )


def remarks(attribution: Attribution) -> list[str]:
    """What a person should know about a choice, beside the scores and how sure it is."""
    choice, said = attribution.choice, []
    if choice.fences is not None:
        left_out = ", ".join(map(str, choice.excluded)) or "none"
        said.append(f"Left out by the Tukey fences (kappa = {choice.fences.kappa:g}): layers {left_out}.")
    said += [f"Requests left out: {count} ({reason})." for reason, count in attribution.num_skipped.items() if count]
    if attribution.scope and not attribution.aggregate.startswith("magnitude") and max(choice.scores) < 0:
        said.append(
            "Every score is negative: the model knows these facts, and the signed sum then favours layers that have little to do "
            "with them. Compare with --model.locator.aggregate magnitude."
        )
    if attribution.seconds is not None:
        said.append(f"Scored in {attribution.seconds:.1f} s.")
    if attribution.stopped_early is not None:
        early = attribution.stopped_early
        said.append(f"Ended early, after {early['after']} of {early['of']} requests: the choice was settled.")
    return said


def what_would_settle(attribution: Attribution) -> str:
    """What the user can do about a choice that could as well have been another."""
    have, needed = attribution.num_requests, attribution.requests_to_settle
    if have == 1:
        return "One request says nothing about others: give more (--data.requests, --data.limit)."
    steadier = {"sum": "share", "magnitude": "magnitude_share"}.get(attribution.aggregate)
    also = (
        f", or try an aggregate that few requests cannot rule (--model.locator.aggregate {steadier})"
        if steadier
        else ""
    )
    if needed is not None and have < needed <= 100 * have:
        return (
            f"By its lead over the runner-up so far, it takes about {needed} requests like these {have} to tell the two "
            f"apart: give more{also}."
        )
    return (
        "No practical number of requests like these would tell these layers apart: compare them with `lga validate "
        f"--model.layer ...`{also}."
    )


def _print_relations(console: Console, found: RelationLayers, common: int, top: int = 12) -> None:
    """A layer for each relation, and whether that means anything."""
    table = Table(title="A layer for each relation")
    for heading in ("relation", "requests", "layer", "confidence"):
        table.add_column(heading, justify="left" if heading == "relation" else "right")
    columns = (found.relations, found.num_requests, found.golden_layers, found.confidences)
    for name, count, layer, confidence in list(zip(*columns, strict=True))[:top]:
        table.add_row(name, str(count), str(layer), f"{confidence:.0%}", style=None if layer == common else "cyan")
    console.print(table)
    if len(found.relations) > top:
        console.print(f"{len(found.relations) - top} more relations: attribution.json.")
    console.print(relations_verdict(found))


def relations_verdict(found: RelationLayers) -> str:
    """Whether relations differ, in a sentence."""
    verdict = "differ beyond chance" if found.p_value < 0.05 else "differ no more than chance would have it"
    return f"The relations' layers {verdict} (permutation test, p = {found.p_value:.3f})."


def print_edits(content: Mapping[str, Any]) -> None:
    """Print the scores before and after the edits.

    Args:
        content: What ``validation.json`` holds.
    """
    console = Console()
    table = Table(
        title=f"{content['method']['name']} at layer {name_layers(content['layers'])} of {content['model']}, "
        f"{content['num_requests']} requests of {content['data']}, {mode_in_words(content)}"
    )
    for heading in ("", "before", "after", "generated before", "generated after"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for name, metric in content["metrics"].items():
        family, _, kind = name.partition(".")
        shown = f"  {kind}" if family in content["metrics"] and kind else name
        cells = [_with_interval(sides, side) for sides in (metric, metric.get("generated", {})) for side in SIDES]
        table.add_row(shown, *cells)
    console.print(table)
    console.print(
        "Under each mean its 95% interval over requests. What is not generated is teacher-forced, which flatters."
    )
    if len(content.get("drift", ())) > 1:
        _print_drift(console, content["drift"])


def mode_in_words(content: Mapping[str, Any]) -> str:
    """How the requests were edited, from what ``validation.json`` holds."""
    return {"independent": "each edited alone", "batch": "edited together"}.get(
        content["mode"], f"edited one after the other, {content.get('group_size')} at a time"
    )


def print_places(content: Mapping[str, Any], path: Path) -> None:
    """Print which layer was edited, and where the files are."""
    console = Console()
    layers = name_layers(content["layers"])
    console.print(f"Layer {layers}: {content['layer_source']}.", highlight=False, soft_wrap=True)
    console.print(f"What each number means, and every request: {path}", highlight=False, soft_wrap=True)
    console.print(f"A page to read: {path.with_name('report.html')}", highlight=False, soft_wrap=True)
    console.print(f"What the model said: {path.with_name('requests.parquet')}", highlight=False, soft_wrap=True)


def print_written(content: Mapping[str, Any], folder: Path, merged: bool) -> None:
    """Print what was written where."""
    console = Console()
    layers = name_layers(content["layers"])
    console.print(f"Layer {layers}: {content['layer_source']}.", highlight=False, soft_wrap=True)
    what = (
        "The edited model" if merged else "The edits, a folder each" if content["mode"] == "independent" else "The edit"
    )
    console.print(f"{what}: {folder}", highlight=False, soft_wrap=True)


def print_moments(key: MomentKey) -> None:
    """Print where the second moments are, and how to use them."""
    console = Console()
    layers = sorted(int(path.stem) for path in key.folder.glob("*.safetensors") if path.stem.isdigit())
    console.print(
        f"Second moments of {key.model}, layers {name_layers(layers)}, from {key.text}: {key.folder}", soft_wrap=True
    )
    console.print("Use them with --model.editor.second_moment and that folder, or the same text and number of tokens.")


def name_layers(layers: Sequence[int]) -> str:
    """Layers in a few signs.

    Example:
        >>> name_layers([3]), name_layers([4, 5, 6]), name_layers([1, 3])
        ('3', '4-6', '1, 3')
    """
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def _print_drift(console: Console, drift: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Drift: the facts edited so far, teacher-forced")
    names = [name for name in drift[-1] if name not in ("edits", "relative_change")]
    for heading in ("edits", *names, "largest change of a weight"):
        table.add_column(heading, justify="right")
    for point in drift:
        sizes = f"{max(point['relative_change'].values(), default=0.0):.1%}"
        table.add_row(str(point["edits"]), *(f"{point.get(name, float('nan')):.3f}" for name in names), sizes)
    console.print(table)


def _with_interval(sides: Mapping[str, Any], side: str) -> str:
    if side not in sides:
        return ""
    low, high = sides[f"{side}_ci"]
    return f"{sides[side]:.3f}\n[dim]{low:.2f}…{high:.2f}[/dim]"
