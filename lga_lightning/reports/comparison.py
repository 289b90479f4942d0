"""What a person sees of a comparison: tables on the terminal and as Markdown, and a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from lga_lightning.reports.figures import plain
from lga_lightning.reports.markdown import escape_markdown
from lga_lightning.reports.terminal import make_console, print_plain
from lga_lightning.results.comparison import COMPARISON_FILE, Comparison, LocatorRow
from lga_lightning.results.regret import Candidate, Interval
from lga_lightning.utils.io import write_text, write_whole
from lga_lightning.utils.text import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKDOWN_FILE = "comparison.md"
PICTURE_FILE = "comparison.png"
SHOWN = 12  # candidates on the terminal; the file has all


@dataclass(frozen=True)
class Sheet:
    """A table: the first column is of words, the others of numbers.

    Attributes:
        title: What the table shows.
        headings: Headings of the columns.
        rows: Rows of cells.
        note: How to read the table.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def print(self, console: Console, limit: int | None = None) -> None:
        """On the terminal; of a long table, the first rows."""
        table = Table(title=escape(self.title), box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        for place, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if place else "left", no_wrap=place > 0)
        for name, *numbers in self.rows[:limit]:
            table.add_row(escape(name), *map(_stacked, numbers))
        console.print(table)
        if self.note:
            console.print(escape(self.note))

    def markdown(self) -> str:
        """As Markdown."""
        headings = [heading.replace("\n", " ") for heading in self.headings]
        rows = [[escape_markdown(name), *numbers] for name, *numbers in self.rows]
        lines = [headings, ["---"] + ["--:"] * (len(self.headings) - 1), *rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        note = f"\n{escape_markdown(self.note)}\n" if self.note else ""
        return f"## {escape_markdown(self.title)}\n\n{table}\n{note}"


def leave_comparison(result: Comparison, root: Path) -> None:
    """Write ``comparison.json``, ``comparison.md`` and ``comparison.png``, and print the tables.

    Args:
        result: Locators side by side.
        root: Folder for the files.
    """
    sheets = [found for found in (*regret_sheets(result), curve_sheet(result), candidates_sheet(result)) if found]
    result.save(root)
    text = f"# Locators compared on {escape_markdown(result.model)}\n\n" + "\n".join(
        sheet.markdown() for sheet in sheets
    )
    write_text(root / MARKDOWN_FILE, text)
    draw_comparison(result, root / PICTURE_FILE)
    console = make_console()
    for sheet in sheets:
        sheet.print(console, SHOWN)
    print_plain(console, f"Files: {root}/{MARKDOWN_FILE}, {COMPARISON_FILE}, {PICTURE_FILE}")


def regret_sheets(result: Comparison) -> list[Sheet]:
    """How the locators' layers stand on each test set."""
    sheets = []
    for number, sweep in enumerate(result.sweeps):
        best, whole = sweep.scores[sweep.best_layer], len(sweep.edited) == len(sweep.scores)
        rows = [
            [
                row.name,
                str(row.layer),
                f"{row.confidence:.0%}",
                *_points(row, number),
                "/".join(str(int(row.regrets[number].hit(k))) for k in (1, 3, 5)),
                f"{row.seconds:.1f}",
                _times(row.speed_up) if row.seconds > 0.1 else "",
            ]
            for row in result.rows
        ]
        references = [
            ["best fixed layer", str(sweep.best_layer), "", f"{best:.1f}", "0.0", f"{sweep.optimum - best:.1f}"],
            ["best layer of each request", "", "", f"{sweep.optimum:.1f}", "", "0.0"],
        ]
        rows += [[*cells, "", f"{sweep.seconds:.1f}", "1x" if whole else ""] for cells in references]
        headings = ("locator", "layer", "sure", "score", "regret", "gap", "hit@\n1/3/5", "seconds", "speed-\nup")
        what = "Layers picked on" if number == 0 else "Carried over from"
        note = (
            "Sure: share of bootstrap resamples of the proxies that choose the layer. Score: mean of rewrite, rephrase and locality after an edit, in points, with its 95% bootstrap interval over test "
            "requests. Regret: what the best fixed layer has more. Gap: what the best layer of each request by itself has more. "
            f"Speed-up: over {'the sweep' if whole else 'a sweep at all layers, reckoned from these'}, for as many requests."
        )
        if sweep.own_layer is not None:
            lost = best - sweep.scores[sweep.own_layer]
            note += (
                f" The layer that {result.rows[0].name} picks on proxies of this data set itself: {sweep.own_layer}, with a regret "
                f"of {lost:.1f}."
            )
        count = result.rows[0].num_requests
        title = f"{what} {count} proxies of {result.proxies}, judged on {sweep.num_requests} tests of {sweep.data}"
        if not whole:
            title += f" at {len(sweep.edited)} candidates"
            note += f" Best: of the {len(sweep.edited)} layers that were edited, of {len(sweep.scores)}."
        sheets.append(Sheet(title, headings, rows, note))
    return sheets


def curve_sheet(result: Comparison) -> Sheet | None:
    """Expected regret and confidence by number of proxies."""
    rows = [row for row in result.rows if row.points]
    sizes = sorted({point.requests for row in rows for point in row.points})
    if not sizes:
        return None
    cells = []
    for row in rows:
        found = {point.requests: f"{point.regret:.1f} ({point.confidence:.0%})" for point in row.points}
        cells.append([row.name, *(found.get(size, "") for size in sizes)])
    note = (
        "Proxies are drawn 200 times without replacement; in brackets the mean bootstrap confidence that a user then sees. "
        "Where nearly all proxies are drawn, the draws are nearly the same."
    )
    return Sheet("Expected regret in points, by number of proxies", ("locator", *map(str, sizes)), cells, note)


def candidates_sheet(result: Comparison) -> Sheet | None:
    """Every rule, the best first."""
    if not result.candidates:
        return None
    headings = ("scope, statistic, aggregate", "fences", "neighbours", "layer", "sure", "regret", "expected")
    rows = [_candidate(candidate) for candidate in result.candidates]
    note = f"Regret: with all proxies. Expected: with {result.candidates[0].requests} of them."
    return Sheet(f"All {len(rows)} gradient rules, by expected regret", headings, rows, note)


def draw_comparison(result: Comparison, path: Path) -> None:
    """Draw the first sweep with the locators' layers, and the expected regret by number of proxies.

    Args:
        result: Locators side by side.
        path: Where the PNG is to appear.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sweep = result.sweeps[0]
    layers = sweep.edited
    marker = "" if len(layers) == len(sweep.scores) else "o"
    score = [sweep.scores[layer] for layer in layers]
    left.plot(layers, score, color="black", linewidth=2.5, marker=marker, label="score: their mean")
    for name, values in sweep.parts.items():
        left.plot(layers, [values[layer] for layer in layers], linewidth=1, linestyle="--", label=name)
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.16 * (high - low))
    by_layer: dict[int, list[str]] = {}
    for row in result.rows:
        by_layer.setdefault(row.layer, []).append(row.name)
    for place, (layer, names) in enumerate(sorted(by_layer.items())):
        left.axvline(layer, color="grey", linewidth=0.8)
        last = layer > 0.6 * len(sweep.scores)
        left.annotate(
            plain(" · ".join(names)),
            (layer, high + (0.15 - 0.04 * (place % 4)) * (high - low)),
            xytext=(-4 if last else 4, 0),
            textcoords="offset points",
            ha="right" if last else "left",
            va="top",
            fontsize=8,
        )
    left.set_yticks(range(0, 101, 20))
    left.set_xlim(-0.5, len(sweep.scores) - 0.5)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("layer that is edited")
    left.set_ylabel("points")
    left.set_title(
        plain(
            f"Edits of {sweep.num_requests} test requests at {'candidate layers' if marker else 'every layer'} of "
            f"{Path(result.model).name}"
        ),
        fontsize=11,
    )
    left.legend(loc="lower left", fontsize=8)
    if any(row.points for row in result.rows):
        _draw_curves(right, result.rows)
    else:
        _draw_regrets(right, result.rows)
    write_whole(path, lambda scratch: figure.savefig(scratch, dpi=130))


def _draw_curves(axes: Axes, rows: Sequence[LocatorRow]) -> None:
    """Expected regret by number of proxies."""
    for row in rows:
        if row.points:
            sizes = [point.requests for point in row.points]
            axes.plot(sizes, [point.regret for point in row.points], marker="o", label=plain(row.name))
        else:
            axes.axhline(row.regrets[0].regret, linestyle=":", color="grey")
            axes.annotate(
                plain(row.name),
                (0.99, row.regrets[0].regret),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
    sizes = sorted({point.requests for row in rows for point in row.points})
    axes.set_xscale("log")
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("proxy requests")
    axes.set_ylabel("expected regret, points")
    axes.set_title("What a choice of layer costs on unseen requests", fontsize=11)


def _draw_regrets(axes: Axes, rows: Sequence[LocatorRow]) -> None:
    """Regret with all proxies, and its 95% interval."""
    for place, row in enumerate(rows):
        found = row.regrets[0]
        low, high = found.regret_interval
        axes.plot([low, high], [place, place], color="grey")
        axes.plot(found.regret, place, "o", color="black")
    axes.set_yticks(range(len(rows)), [plain(row.name) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("points behind the best layer that was edited, with 95% intervals")
    axes.set_title("What the choice of layer costs on unseen requests", fontsize=11)


def _points(row: LocatorRow, number: int) -> list[str]:
    found = row.regrets[number]
    pairs: list[tuple[float, Interval]] = [
        (found.score, found.score_interval),
        (found.regret, found.regret_interval),
        (found.gap, found.gap_interval),
    ]
    return [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, (low, high) in pairs]


def _times(factor: float) -> str:
    return f"{factor:,.0f}x" if factor >= 10 else f"{factor:.1f}x"


def _stacked(cell: str) -> str:
    """A number with its interval under it, in whole points, where there is one."""
    match = re.fullmatch(r"(.+) \[(.+), (.+)\]", cell)
    return f"{match[1]}\n[dim]{float(match[2]):.0f}…{float(match[3]):.0f}[/dim]" if match else cell


def _candidate(candidate: Candidate) -> list[str]:
    return [
        f"{candidate.scope}, {candidate.statistic}, {candidate.aggregate}",
        "none" if candidate.kappa is None else f"{candidate.kappa:g}",
        str(candidate.neighbours),
        str(candidate.layer),
        f"{candidate.confidence:.0%}",
        f"{candidate.regret:.1f}",
        f"{candidate.expected_regret:.1f}",
    ]
