"""What ``lga edit`` says on the terminal: where the layer comes from, and a small table of scores."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from lga_lightning.evaluation.prompts import FAMILIES
from lga_lightning.reports.edit_wording import first_look, warnings
from lga_lightning.reports.tables import number
from lga_lightning.reports.terminal import make_console, print_note, print_table
from lga_lightning.reports.wording import layers_in_words, verdict
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.text import escape

NAMES = {"rewrite": "efficacy", "rephrase": "generalization"}


def print_layer(result: LocatorResult, known: bool) -> None:
    """Print the golden layer, how sure it is, and where it comes from, in one line.

    Args:
        result: What led to it.
        known: Whether it was found before.
    """
    origin = "found before, with" if known else "found now, and kept for the next time, with"
    facts = f"{result.num_requests} of {result.data}"
    print_note(
        f"Golden {layers_in_words(result.golden_layers)} of {result.model}: {verdict(result)}; {origin} {facts}."
    )


def print_scores(result: ValidationResult, required: Mapping[str, str]) -> None:
    """Print a row for each family of prompts, before and after, with what is required of it.

    Args:
        result: What the edits did.
        required: By family, and ``general``, what is required, in words.
    """
    console, table = make_console(), Table()
    for heading in ("", "before", "after", *(("required",) if required else ())):
        table.add_column(heading, justify="right" if heading else "left")

    def add(label: str, before: float, after: float, family: str) -> None:
        least = (required.get(family, ""),) if required else ()
        table.add_row(label, number(before, 3), number(after, 3), *least)

    for family in FAMILIES:
        if family in result.metrics:
            seen = first_look(result.metrics[family])
            add(NAMES.get(family, family), seen.before, seen.after, family)
    for name, score in (result.general.scores if result.general is not None else {}).items():
        add(f"general: {name}", score.before, score.after, "general")
    print_table(console, table)
    for warning in warnings(result):
        console.print(f"[bold red]{escape(warning)}[/bold red]")
