"""One record of a data set; asking it for a field that is not there, or is of another kind, says where that is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lga_lightning.exceptions import DataError, InvalidRequest


class Record:
    """One object of a file or a data set.

    Args:
        values: Fields of the object.
        place: Source and row, for messages.
        flat: Whether the record comes from a table of texts (CSV): there an empty cell stands for a field that is missing, and a
            cell with a JSON list or object stands for that where one is expected.

    Attributes:
        dropped: Parts that a reader left out of the request, and why.
        asked: Paths of the fields that a reader has asked for, in this record and in those within it.
    """

    def __init__(self, values: dict[str, Any], place: str, flat: bool = False) -> None:
        self.values = values
        self.place = place
        self.flat = flat
        self.dropped: list[InvalidRequest] = []
        self.asked: set[str] = set()
        self._path = ""

    def unread(self) -> Iterator[str]:
        """Paths of the fields that hold something and that nobody has asked for, a list's elements under one path."""
        yield from dict.fromkeys(_unread(self.values, self._path, self.asked))

    def text(self, field: str) -> str:
        """A field that must be there and must be a string."""
        return self._string(self._required(field), field)

    def optional_text(self, field: str) -> str | None:
        """A field that may be missing or null, and else must be a string."""
        value = self._optional(field)
        return None if value is None else self._string(value, field)

    def texts(self, field: str) -> tuple[str, ...]:
        """A field that may be missing or null, and else is a string or a list of strings."""
        value = self._nested(self._optional(field))
        if value is None:
            return ()
        return tuple(self._string(item, field) for item in (value if isinstance(value, list) else [value]))

    def answers(self, field: str) -> tuple[str, ...]:
        """A field that must be there: a string, or strings in lists of any depth, all of them kept."""
        return tuple(self._string(item, field) for item in _leaves(self._nested(self._required(field))))

    def filled_answers(self, field: str) -> tuple[str, ...]:
        """As :meth:`answers`, without those that are blank."""
        return tuple(answer for answer in self.answers(field) if answer.strip())

    def optional_answers(self, field: str) -> tuple[str, ...]:
        """As :meth:`filled_answers`, of a field that may be missing or null."""
        return () if self._optional(field) is None else self.filled_answers(field)

    def record(self, field: str) -> Record:
        """A field that must be there and must be an object."""
        value = self._nested(self._required(field))
        if not isinstance(value, dict):
            raise self._wrong(field, "an object", value)
        return self._part(value, field)

    def rows(self, field: str) -> list[Record]:
        """A field that may be missing or null, and else is a list of objects."""
        return self._rows(self._nested(self._optional(field)), field)

    def records(self, field: str) -> dict[str, list[Record]]:
        """A field that may be missing or null, and else is an object of lists of objects."""
        kinds = self._nested(self._optional(field))
        if not isinstance(kinds, dict | None):
            raise self._wrong(field, "an object of lists", kinds)
        self.asked |= {f"{self._path}{field}.{kind}" for kind in kinds or {}}
        # tables have every kind in every row: null where the row has none
        return {kind: self._rows(rows, f"{field}.{kind}") for kind, rows in (kinds or {}).items() if rows is not None}

    def _rows(self, rows: Any, field: str) -> list[Record]:
        rows = [] if rows is None else rows
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._wrong(field, "a list of objects", rows)
        return [self._part(row, f"{field}[{number}]") for number, row in enumerate(rows)]

    def _part(self, values: dict[str, Any], name: str) -> Record:
        part = Record(values, f"{self.place}, {name}")
        part.dropped, part.asked = self.dropped, self.asked
        part._path = f"{self._path}{name.partition('[')[0]}."
        return part

    def _required(self, field: str) -> Any:
        self.asked.add(self._path + field)
        if field not in self.values:
            raise DataError(
                f"{self.place}: the field {field!r} is missing. The row has the fields {sorted(map(str, self.values))}. "
                "Add it, or say with --data.format which format the file has."
            )
        return self.values[field]

    def _optional(self, field: str) -> Any:
        self.asked.add(self._path + field)
        value = self.values.get(field)
        return None if self.flat and value == "" else value

    def _nested(self, value: Any) -> Any:
        if self.flat and isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                return value
        return value

    def _string(self, value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise self._wrong(field, "a string", value)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self._wrong(field, "valid Unicode (it has half of a surrogate pair)", value[:20]) from error
        return value

    def _wrong(self, field: str, expected: str, value: Any) -> DataError:
        shown = json.dumps(value, ensure_ascii=True, default=repr)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return DataError(f"{self.place}: the field {field!r} must be {expected}, got {shown}.")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _unread(value: Any, path: str, asked: set[str]) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        for field, inner in item.items() if isinstance(item, dict) else ():
            here = f"{path}{field}"
            if inner is None or inner in ("", [], {}):
                continue
            if here not in asked:
                yield here
            elif any(other.startswith(f"{here}.") for other in asked):  # else it was read as a whole
                yield from _unread(inner, f"{here}.", asked)
