"""What a person sees on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lga_lightning.covariance.store import CovarianceKey
from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.reports.wording import mode_in_words, name_layers, relations_verdict, remarks, what_would_settle
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.validation import SIDES


def print_attribution(attribution: LocatorResult, root: Path, top: int = 8) -> None:
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


def print_moments(key: CovarianceKey) -> None:
    """Print where the second moments are, and how to use them."""
    console = Console()
    layers = sorted(int(path.stem) for path in key.folder.glob("*.safetensors") if path.stem.isdigit())
    console.print(
        f"Second moments of {key.model}, layers {name_layers(layers)}, from {key.text}: {key.folder}", soft_wrap=True
    )
    console.print("Use them with --model.editor.second_moment and that folder, or the same text and number of tokens.")


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
