"""JSON in constant memory: one object a line, one long list of objects, or one object of them by number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from lga_lightning.exceptions import DataError

CHUNK = 1 << 16  # characters
INDEX = re.compile(r'\s*\{\s*"\d+"\s*:\s*\{')
BLANK = re.compile(r"[ \t\r\n]*")


def starts_with_list(file: TextIO) -> bool:
    """Whether the first character that is not white space is ``[``; the file is where it was, at its beginning."""
    character = file.read(1)
    while character and character.isspace():
        character = file.read(1)
    file.seek(0)
    return character == "["


def starts_with_index(file: TextIO) -> bool:
    """Whether a text begins as ``{"0": {``: objects by number; the file is where it was, at its beginning."""
    begins = INDEX.match(file.read(CHUNK)) is not None
    file.seek(0)
    return begins


def json_lines(file: TextIO, name: str) -> Iterator[tuple[int, Any]]:
    """Line numbers and values of a JSON Lines file; blank lines are passed over.

    Raises:
        DataError: If a line is not JSON.
    """
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{name}, line {number} is not valid JSON: {error}. Expected one object a line (JSON Lines), or one JSON list "
                "of objects."
            ) from error


def json_list(file: TextIO, name: str) -> Iterator[tuple[int, Any]]:
    """Row numbers and elements of one JSON list, read element by element.

    Raises:
        DataError: If the text is not one JSON list.
    """
    window = _Window(file, name)
    window.skip("[")
    number = 0
    while number or window.peek() != "]":
        number += 1
        yield number, window.value(number)
        if window.peek() != ",":
            break
        window.skip(",")
    window.skip("]")
    window.skip("")


def json_index(file: TextIO, name: str) -> Iterator[tuple[int, Any]]:
    """Row numbers and values of one JSON object of objects by number, read value by value; the keys are passed over.

    Raises:
        DataError: If the text is not one JSON object.
    """
    window = _Window(file, name)
    window.skip("{")
    number = 0
    while True:
        number += 1
        window.value(number)  # its key
        window.skip(":")
        yield number, window.value(number)
        if window.peek() != ",":
            break
        window.skip(",")
    window.skip("}")
    window.skip("")


class _Window:
    """The part of a text file that is being looked at.

    Args:
        file: The file.
        name: Its name, for messages.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._line = 1  # of the window's first character

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            blank = BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self, expected: str) -> None:
        """Go past a character that must come next ("": the end)."""
        found = self.peek()
        if found != expected:
            what = f"found {found!r}" if found else "the file ends"
            raise self._invalid(
                f"{what} where {expected!r} should be" if expected else f"{what} behind the list", self._at
            )
        self._at += len(expected)

    def value(self, number: int) -> Any:
        """The next value, the list's element with that number."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # the value may only be cut off by the window's end; in all other errors the place is exact
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if cut and self._more():
                    continue
                raise self._invalid(f"row {number}: {error.msg}", error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._invalid(f"row {number}: {error}", self._at) from error
            # a number may go on behind a point or an exponent's sign that is the window's last
            if end < len(self._text) - 2 or not self._more():
                self._at = end
                return value

    def _more(self) -> bool:
        """Read on, twice as much as there is, and let go of what has been passed; False at the file's end."""
        piece = self._file.read(max(CHUNK, len(self._text) - self._at))
        if not piece:
            return False
        self._line += self._text.count("\n", 0, self._at)
        self._text = self._text[self._at :] + piece
        self._at = 0
        return True

    def _invalid(self, what: str, position: int) -> DataError:
        line = self._line + self._text.count("\n", 0, position)
        return DataError(f"{self._name} is not valid JSON: line {line}, {what}. Expected a list of objects.")
