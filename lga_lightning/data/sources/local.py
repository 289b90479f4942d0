"""Records of a file: what kind of file it is, and what can be wrong with it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from lga_lightning.data.records import Record
from lga_lightning.data.sources.json_text import json_index, json_lines, json_list, starts_with_index, starts_with_list
from lga_lightning.data.sources.tables import csv_rows, parquet_rows
from lga_lightning.exceptions import DataError
from lga_lightning.utils.checksums import file_checksum

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON = (".json", ".jsonl")


def read_file(path: Path, text_field: str | None = None) -> Iterator[Record]:
    """Read a file's records in constant memory.

    Gzip, Parquet, JSON and JSON Lines are told by the content, CSV and TSV by the name (``.csv``, ``.tsv``, ``.csv.gz``).

    Args:
        path: The file.
        text_field: For texts: a JSON string is a record with this field; and a file that is not named as JSON, CSV, TSV or
            Parquet is plain text, of which every paragraph (blank lines stand between two) is such a record.

    Raises:
        DataError: If the file is missing, not readable, malformed, or holds something else than objects.
    """
    _must_exist(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == PARQUET or path.suffix == ".parquet":
            for number, values in parquet_rows(path):
                yield Record(values, f"{path.name}, row {number}")
            return
        with _open_text(path, zipped=start[:2] == GZIP or path.suffix == ".gz") as text:
            yield from _text_records(text, path, text_field)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not a text file in UTF-8 ({error}). Save it as UTF-8, as JSON, JSON Lines or CSV."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name} is not a whole gzip file ({error}). Make or fetch it again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        DataError: If the file is missing or not readable.
    """
    _must_exist(path)
    try:
        return file_checksum(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _must_exist(path: Path) -> None:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(
            f"The file {str(path)!r} {what}. Give the path of a file, or a data set on the Hub as hub:owner/name, with "
            "?config=... behind it where it has several configurations."
        )


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"The file {str(path)!r} cannot be read: {error.strerror or error}.")


def _open_text(path: Path, zipped: bool) -> TextIO:
    options = {"encoding": "utf-8-sig", "newline": "" if _suffix(path) in DELIMITERS else None}
    return cast(TextIO, gzip.open(path, "rt", **options) if zipped else path.open("rt", **options))  # type: ignore[call-overload]


def _text_records(file: TextIO, path: Path, text_field: str | None) -> Iterator[Record]:
    suffix = _suffix(path)
    if suffix in DELIMITERS:
        for line, cells in csv_rows(file, path.name, DELIMITERS[suffix]):
            yield Record(cells, f"{path.name}, line {line}", flat=True)
        return
    if text_field and suffix not in JSON:
        for number, paragraph in enumerate(_paragraphs(file), start=1):
            yield Record({text_field: paragraph}, f"{path.name}, paragraph {number}")
        return
    unit, rows = "line", json_lines
    if starts_with_list(file):
        unit, rows = "row", json_list
    elif starts_with_index(file):
        unit, rows = "row", json_index
    for number, row in rows(file, path.name):
        yield _record(row, f"{path.name}, {unit} {number}", text_field)


def _record(row: Any, place: str, text_field: str | None) -> Record:
    if isinstance(row, dict):
        return Record(row, place)
    if text_field and isinstance(row, str):
        return Record({text_field: row}, place)
    expected = (
        f"a string, or an object with the field {text_field!r}"
        if text_field
        else "a JSON object with the fields of a request"
    )
    raise DataError(f"{place}: expected {expected}, got {row!r:.60}.")


def _paragraphs(lines: TextIO) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph)
            paragraph = []
    if paragraph:
        yield "".join(paragraph)


def _suffix(path: Path) -> str:
    """The end of the name that says what a text file holds: in small letters, without ``.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""
