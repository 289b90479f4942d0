"""Records of a JSON or JSON Lines file, with the place of each for messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lga_lightning.errors import DataError


class Record:
    """One JSON object of a file; asking for a field that is not there, or is of another kind, says where.

    Args:
        values: The object.
        place: File and row, for messages.
    """

    def __init__(self, values: dict[str, Any], place: str) -> None:
        self.values = values
        self.place = place

    def text(self, field: str) -> str:
        """A field that must be there and must be a string."""
        if field not in self.values:
            raise DataError(
                f"{self.place}: the field {field!r} is missing. The row has the fields {sorted(self.values)}. Add it, or "
                "say with --data.format which format the file has."
            )
        return self._string(self.values[field], field)

    def optional_text(self, field: str) -> str | None:
        """A field that may be missing or null, and else must be a string."""
        value = self.values.get(field)
        return None if value is None else self._string(value, field)

    def texts(self, field: str) -> tuple[str, ...]:
        """A field that may be missing or null, and else is a string or a list of strings."""
        value = self.values.get(field)
        if value is None:
            return ()
        return tuple(self._string(item, field) for item in (value if isinstance(value, list) else [value]))

    def records(self, field: str) -> dict[str, list[Record]]:
        """A field that may be missing or null, and else is an object of lists of objects."""
        kinds = self.values.get(field) or {}
        if not isinstance(kinds, dict):
            raise self._wrong(field, "an object of lists", kinds)
        found: dict[str, list[Record]] = {}
        for kind, rows in kinds.items():
            where = f"{field}.{kind}"
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise self._wrong(where, "a list of objects", rows)
            found[kind] = [Record(row, f"{self.place}, {where}[{number}]") for number, row in enumerate(rows)]
        return found

    def answers(self, field: str) -> tuple[str, ...]:
        """A field that must be there: a string, a list of strings, or a list of lists of strings, all of them kept."""
        if field not in self.values:
            self.text(field)  # raises
        value = self.values[field]
        flat: list[Any] = []
        for item in value if isinstance(value, list) else [value]:
            flat += item if isinstance(item, list) else [item]
        return tuple(self._string(item, field) for item in flat)

    def _string(self, value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise self._wrong(field, "a string", value)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self._wrong(field, "valid Unicode (it has half of a surrogate pair)", value[:20]) from error
        return value

    def _wrong(self, field: str, expected: str, value: Any) -> DataError:
        shown = json.dumps(value, ensure_ascii=True)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return DataError(f"{self.place}: the field {field!r} must be {expected}, got {shown}.")


def read_records(path: Path) -> Iterator[Record]:
    """Read a JSON file (a list of objects) or a JSON Lines file (an object a line), told apart by the content.

    Raises:
        DataError: If the file is missing, not readable, not JSON, or holds something else than objects.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"The request file {str(path)!r} {what}. Give --data.requests a JSON or JSON Lines file.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            rows = _json_list(file.read(), path) if first.lstrip().startswith("[") else _json_lines(file, path)
            for number, row in rows:
                place = f"{path.name}, {'row' if first.lstrip().startswith('[') else 'line'} {number}"
                if not isinstance(row, dict):
                    raise DataError(f"{place}: expected a JSON object with the fields of a request, got {row!r:.60}.")
                yield Record(row, place)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not a text file in UTF-8 ({error}). Save it as UTF-8 JSON.") from error
    except OSError as error:
        raise DataError(f"The request file {str(path)!r} cannot be read: {error.strerror}.") from error


def _json_list(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    try:
        return enumerate(json.loads(text), start=1)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not valid JSON: {error}. Expected a list of objects.") from error


def _json_lines(lines: Iterator[str], path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path.name}, line {number} is not valid JSON: {error}. Expected one object a line (JSON Lines), or one "
                "JSON list of objects."
            ) from error
