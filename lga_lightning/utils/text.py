"""Text of the data, made fit to be shown."""

from __future__ import annotations

import unicodedata


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
