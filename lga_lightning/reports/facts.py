"""A few facts on the terminal, in words: what the model said before and after their edit, and what it was to say."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.reports.terminal import make_console
from lga_lightning.utils.text import escape

SHOWN = 3
LONGEST = 64  # characters of a line
VERDICTS = ("judged", "contained")  # what decides whether an answer is right


def print_facts(results: Sequence[Sequence[EvalResult]]) -> None:
    """Print a few edits in words, from all over the data; nothing where the model was not asked for its own words.

    Args:
        results: N requests' results.
    """
    said = [one for of_request in results for one in of_request if one.group == "rewrite" and one.said is not None]
    if not said:
        return
    console, count = make_console(), min(SHOWN, len(said))
    console.print(f"In words, {count} of {len(said)}:")
    for place in range(count):
        _print_fact(console, said[len(said) * place // count])


def _print_fact(console: Console, result: EvalResult) -> None:
    before, after = (_in_one_line(text) for text in result.said or ("", ""))
    right = next((bool(result.scores[name][1]) for name in VERDICTS if name in result.scores), False)
    colour, mark = ("green", "✓") if right else ("red", "✗")
    console.print(f"  [bold]{escape(_in_one_line(result.prompt))}[/bold]", highlight=False)
    console.print(f"    before  {escape(before)}", highlight=False)
    console.print(f"    after   [{colour}]{escape(after)} {mark}[/{colour}]", highlight=False)
    console.print(f"    wanted  {escape(' / '.join(result.answers))}", highlight=False)


def _in_one_line(text: str) -> str:
    """A text without line breaks, cut where it is long; said to be nothing where it is."""
    line = " ".join(text.split())
    return (line if len(line) <= LONGEST else f"{line[:LONGEST].rstrip()} …") or "(nothing)"
