"""The facts of an adapter on the terminal, and the page of one that some were taken out of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from lga_lightning.editing.facts import Facts
from lga_lightning.reports.markdown import escape_markdown
from lga_lightning.reports.terminal import make_console, print_table
from lga_lightning.utils.text import escape

SHOWN = 100  # facts on a page


def print_facts_of(facts: Facts) -> None:
    """Print the facts of an adapter, with their ids, and how each can be taken out.

    Args:
        facts: The facts.
    """
    console = make_console()
    table = Table()
    table.add_column("id", no_wrap=True)
    table.add_column("fact", overflow="fold")
    table.add_column("out", no_wrap=True)
    exact = list(facts.exact())
    for (name, number, row), alone in zip(facts, exact, strict=True):
        request = facts.groups[number].requests[row]
        said = f"{escape(request.prompt)} [bold]{escape(request.target_new)}[/bold]"
        table.add_row(name, said, "exact" if alone else "redo")
    print_table(console, table)
    if not all(exact):
        console.print(
            "redo: other facts were solved for with it or on top of it; lga remove edits them again, with --model.",
            highlight=False,
        )


def removal_card(note: Mapping[str, Any], facts: Facts, ranks: Mapping[str, int], dense: bool = False) -> str:
    """Text of a README.md for an adapter that facts were taken out of.

    Args:
        note: What its ``lga.json`` says.
        facts: The facts that are left.
        ranks: Ranks of the edit, by module.
        dense: Whether it is of whole matrices, which PEFT does not read.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base = note["base_model"]
    library = None if dense else "peft"
    metadata = ModelCardData(base_model=base, library_name=library, tags=["knowledge-editing", "lga-lightning"])
    rows = "\n".join(
        f"| {escape_markdown(request.prompt)} | {escape_markdown(request.target_new)} |"
        for request in facts.requests[:SHOWN]
    )
    more = f"\n\n... and {len(facts) - SHOWN} more; all are in `facts.json`." if len(facts) > SHOWN else ""
    written = "Whole matrices" if dense else f"Rank {', '.join(map(str, sorted(set(ranks.values()))))}"
    count, removed = len(facts), len(note["removed"])
    text = (
        f"---\n{metadata.to_yaml()}\n---\n# {count} edited fact{'s' * (count != 1)} in {escape_markdown(base)}\n\n"
        f"{written}, by lga-lightning. {removed} more {'were' if removed != 1 else 'was'} taken out again with `lga remove`. "
        "The scores in `lga.json` are of the edit with them.\n\n"
        f"| prompt | after |\n| --- | --- |\n{rows}{more}\n"
    )
    return str(ModelCard(text))
