"""Text of the data, made fit to be shown."""

from __future__ import annotations

import os
import sys
import traceback
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches

LONGEST = 4000  # characters of a message: data that it names may be megabytes


def printable(text: str) -> str:
    r"""A text without characters that command a terminal (escape sequences and the like); line breaks and tabs stay.

    Example:
        >>> printable("\x1b[31mred\x07")
        '�[31mred�'
    """
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) != "Cc" else "�" for character in text
    )


def escape(text: str) -> str:
    r"""A text that rich prints as it is: nothing in it is markup, and nothing commands the terminal.

    Example:
        >>> escape("a [bold]name[/bold]\x1b")
        'a \\[bold]name\\[/bold]�'
    """
    from rich.markup import escape as without_markup

    return without_markup(printable(text))


def near(name: str, names: Sequence[str]) -> str:
    """The name that was meant, as the end of a sentence; "" where none is near.

    Args:
        name: What was written.
        names: What could have been.

    Example:
        >>> near("ROMEE", ["FTL", "ROME"]), near("banana", ["FTL", "ROME"])
        ('; did you mean ROME?', '')
    """
    found = get_close_matches(name, names, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def complain(text: str) -> None:
    """Say on stderr, in a paragraph, why the command ends, after the traceback where that is asked for (``--debug``)."""
    if os.environ.get("LGA_DEBUG", "0") not in ("", "0") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    sys.stderr.write(f"\nlga: {printable(text[:LONGEST])}\n")
