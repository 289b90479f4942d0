"""What a person sees on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lga_lightning.covariance.store import CovarianceKey
from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.reports.curves import has_curves, ranking
from lga_lightning.reports.edit_wording import first_look, governor_remarks, low_rank_cost, remarks_on_words, warnings
from lga_lightning.reports.figures import PICTURE_FILE
from lga_lightning.reports.html import REPORT_FILE
from lga_lightning.reports.tables import (
    ABILITY_HEADINGS,
    RELATION_HEADINGS,
    ability_rows,
    cohort_table,
    drift_table,
    edit_table,
    growth_table,
    listed_means,
    metric_label,
    number,
    relation_rows,
)
from lga_lightning.reports.wording import (
    NOT_SETTLED,
    VERIFY,
    full_verdict,
    how_to_read,
    layers_in_words,
    low_rank_in_words,
    mode_in_words,
    name_layers,
    relations_verdict,
    remarks,
    stability,
    what_would_settle,
)
from lga_lightning.results.ability import AbilityResult
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult
from lga_lightning.results.validation import REQUESTS_FILE, ValidationResult
from lga_lightning.results.validation_parts import Metric
from lga_lightning.utils.text import escape

INTERVAL, TEACHER_FORCED = "95%\ninterval", "teacher-\nforced\nafter"

# columns beside what to look at first, after the edits: which numbers of a metric, where it has them
BESIDE: dict[str, Callable[[Metric], Metric | None]] = {
    "exactly\nafter": lambda metric: metric.others.get("generated"),
    "in context\nafter": lambda metric: metric.others.get("contained_in_context"),
    TEACHER_FORCED: lambda metric: metric if metric.others else None,
}


def make_console() -> Console:
    """A console that takes ``:words:`` of the data for what they are; square brackets in them need ``escape``."""
    return Console(emoji=False)


def print_table(console: Console, table: Table) -> None:
    """Print a table; where the terminal is too narrow for it, with fewer lines, and if need be without what can be spared.

    Args:
        console: Where to print it.
        table: The table.
    """

    def too_wide() -> bool:
        anywhere = console.options.update(max_width=1000)
        return Measurement.get(console, anywhere, table).maximum > console.width

    title, table.title = table.title, None
    if too_wide():
        table.box, table.padding, table.pad_edge = box.SIMPLE_HEAD, (0, 0), False  # type: ignore[assignment]
        for spare in (INTERVAL, TEACHER_FORCED):
            if too_wide():
                table.columns = [column for column in table.columns if column.header != spare]
        for column in table.columns:
            column.no_wrap, column.overflow = column.justify == "right", "fold"
    table.title = title
    console.print(table)


def print_attribution(result: LocatorResult, root: Path, top: int = 8, others: Sequence[str] = ()) -> None:
    """Print the best layers and how sure the choice is; of a forecast, whether edits have verified it.

    Args:
        result: Scores of the layers, and the choice.
        root: Folder in which the files were left.
        top: How many layers to print.
        others: Names of more files that were left there.
    """
    choice, console = result.choice, make_console()
    title = f"{result.locator} on {result.model}, {result.num_requests} requests of {result.data}"
    print_table(console, _edit_table(title, result, top) if has_curves(result) else _score_table(title, result, top))
    for remark in remarks(result):
        console.print(escape(remark))
    if result.relations is not None:
        _print_relations(console, result.relations, choice.golden_layer)
    layers = result.golden_layers
    golden = f"Golden layer{'s' * (len(layers) > 1)}: {name_layers(layers)}"
    if result.is_forecast or result.verified:
        console.print(f"[bold]{golden}[/bold], {escape(full_verdict(result))}.")
        if not result.verified:
            console.print(VERIFY)
    else:
        console.print(f"[bold]{golden}[/bold], {stability(result)}.")
        if not result.settled:
            console.print(f"[bold]{NOT_SETTLED}[/bold] {escape(what_would_settle(result))}")
    names = [REPORT_FILE, ATTRIBUTION_FILE, PICTURE_FILE, *others]
    print_plain(console, f"Files: {root}/{', '.join(names)}")


def _score_table(title: str, result: LocatorResult, top: int) -> Table:
    choice, table = result.choice, Table(title=escape(title))
    means = listed_means(result)
    for heading in ("layer", "score", "± standard error", *means):
        table.add_column(escape(heading.replace("_", " ")), justify="right")
    for place, layer in enumerate(ranking(result)[:top]):
        table.add_row(
            f"{layer} (golden)" if place == 0 else f"{layer} (outlier)" if layer in choice.excluded else str(layer),
            f"{choice.scores[layer]:.4g}",
            f"{choice.standard_errors[layer]:.2g}",
            *(f"{column[layer]:.4g}" for column in means.values()),
            style="bold yellow" if place == 0 else None,
        )
    return table


def _edit_table(title: str, result: LocatorResult, top: int) -> Table:
    table = Table(title=escape(f"{title}, in points"))
    headings, rows = edit_table(result, whole=False)
    for heading in headings:  # broken so that 80 columns are enough
        broken = INTERVAL if heading == "95% interval" else heading.replace(" ", "\n")
        broken = broken.replace("generalisation", "generali-\nsation")
        table.add_column(broken, justify="right", no_wrap=True)
    for place, layer in enumerate(ranking(result)[:top]):
        table.add_row(*rows[layer], style=None if place else "bold yellow")
    return table


def print_edits(result: ValidationResult) -> None:
    """Print the scores before and after the edits.

    Args:
        result: What the edits did.
    """
    console = make_console()
    title = (
        f"{result.method['name']} at {layers_in_words(result.layers)} of {result.model}, {result.num_requests} requests of "
        f"{result.data}, {mode_in_words(result)}"
    )
    table = Table(title=escape(title))
    beside = {heading: pick for heading, pick in BESIDE.items() if any(map(pick, result.metrics.values()))}
    for heading in ("", "before", "after", *beside):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for name, metric in result.metrics.items():
        label, is_part = metric_label(name, result.metrics)
        others = [pick(metric) for pick in beside.values()]
        cells = [*_cells(first_look(metric)), *(number(other.after, 3) if other else "" for other in others)]
        table.add_row("  " * is_part + escape(label), *cells)
    print_table(console, table)
    for text in (how_to_read(result), *remarks_on_words(result), *governor_remarks(result)):
        console.print(escape(text))
    for warning in warnings(result):
        console.print(f"[bold red]{escape(warning)}[/bold red]")
    if result.drift is not None and len(result.drift) > 1:
        _print_rows(console, "Drift: the facts edited so far, teacher-forced", *drift_table(result.drift))
    if result.cohorts and any(len(cohort.points) > 1 for cohort in result.cohorts):
        _print_rows(console, "Early facts, asked again", *cohort_table([c for c in result.cohorts if c.points]))
    if result.growth and len(result.growth) > 1:
        headings, rows = growth_table(result.growth)
        _print_rows(console, "Speed and memory", headings, rows[-1:])
    for title, ability in (("General ability", result.general), ("lm-evaluation-harness", result.harness)):
        if ability is not None:
            _print_ability(console, title, ability)


def print_places(result: ValidationResult, path: Path) -> None:
    """Print which layers were edited, and where the files are.

    Args:
        result: What the edits did.
        path: The ``validation.json`` that was written.
    """
    console = make_console()
    _print_layers(console, result)
    print_plain(console, f"What each number means, and every request: {path}")
    print_plain(console, f"A page to read: {path.with_name(REPORT_FILE)}")
    print_plain(console, f"What the model said: {path.with_name(REQUESTS_FILE)}")


def print_written(
    result: ValidationResult,
    folder: Path,
    merged: bool,
    error: float | None = None,
    folded: Mapping[str, Metric] | None = None,
) -> None:
    """Print which layers were edited, and where the edit is.

    Args:
        result: What the edits did.
        folder: Folder that was written.
        merged: Whether it holds the edited model rather than the edit.
        error: Largest relative error of a matrix's change that was written with a lower rank; None if all are whole.
        folded: Scores of what was written, by metric, where it is of a lower rank.
    """
    console = make_console()
    _print_layers(console, result)
    alone = "The edits, a folder each" if result.mode == "independent" else "The edit"
    print_plain(console, f"{'The edited model' if merged else alone}: {folder}")
    if error:
        print_plain(console, low_rank_in_words(error))
    if folded and (cost := low_rank_cost(result.metrics, folded)):
        print_plain(console, cost)


def print_moments(key: CovarianceKey) -> None:
    """Print where the second moments are, and how to use them.

    Args:
        key: What the moments depend on, with their folder.
    """
    console = make_console()
    layers = sorted(int(path.stem) for path in key.folder.glob("*.safetensors") if path.stem.isdigit())
    said = f"Second moments of {key.model}, {layers_in_words(layers)}, from {key.text}: {key.folder}"
    console.print(escape(said), soft_wrap=True)
    console.print("Use them with --model.editor.second_moment and that folder, or the same text and number of tokens.")


def _print_relations(console: Console, found: RelationLayers, common: int, top: int = 12) -> None:
    """A layer for each relation, and whether that means anything."""
    table = Table(title="A layer for each relation")
    for place, heading in enumerate(RELATION_HEADINGS):
        table.add_column(heading, justify="right" if place else "left")
    for row, layer in list(zip(relation_rows(found), found.golden_layers, strict=True))[:top]:
        table.add_row(*map(escape, row), style=None if layer == common else "cyan")
    print_table(console, table)
    if len(found.relations) > top:
        console.print(f"{len(found.relations) - top} more relations: {ATTRIBUTION_FILE}.")
    console.print(relations_verdict(found))


def _print_rows(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title)
    for heading in headings:
        table.add_column(escape(heading), justify="right")
    for row in rows:
        table.add_row(*row)
    print_table(console, table)


def _print_ability(console: Console, title: str, result: AbilityResult) -> None:
    """Abilities before and after the edits, each with its interval under it."""
    table = Table(title=escape(f"{title}, {result.edited}"))
    for place, heading in enumerate(ABILITY_HEADINGS):
        table.add_column(heading, justify="right" if place else "left", no_wrap=not place)
    for name, items, cells in ability_rows(result):
        table.add_row(escape(name), items, *(f"{mean}\n[dim]{ends}[/dim]" for mean, ends in cells))
    print_table(console, table)


def _print_layers(console: Console, result: ValidationResult) -> None:
    print_plain(console, f"{layers_in_words(result.layers).capitalize()}: {result.layer_source}.")


def print_note(text: str) -> None:
    """Print a line of plain words.

    Args:
        text: What is to be said.
    """
    make_console().print(escape(text), highlight=False)


def print_plain(console: Console, text: str) -> None:
    """A line with a path in it: no colours, no line breaks."""
    console.print(escape(text), highlight=False, soft_wrap=True)


def _cells(metric: Metric) -> list[str]:
    """Before and after, each with its interval under it."""
    return [f"{number(mean, 3)}\n[dim]{number(low, 2)}…{number(high, 2)}[/dim]" for mean, (low, high) in metric.sides]
