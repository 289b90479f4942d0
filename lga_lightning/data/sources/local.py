"""Records of a file: what kind of file it is, and what can be wrong with it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

from lga_lightning.data.records import Record
from lga_lightning.data.sources.json_text import json_lines, json_list, starts_with_list
from lga_lightning.data.sources.tables import csv_rows, parquet_rows
from lga_lightning.exceptions import DataError

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_file(path: Path) -> Iterator[Record]:
    """Read a file's records in constant memory.

    Gzip, Parquet, JSON and JSON Lines are told by the content, CSV and TSV by the name (``.csv``, ``.tsv``, ``.csv.gz``).

    Raises:
        DataError: If the file is missing, not readable, malformed, or holds something else than objects.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(
            f"The request file {str(path)!r} {what}. Give --data.requests a JSON, JSON Lines, CSV or Parquet file, or a data "
            "set on the Hub as hub:owner/name."
        )
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == PARQUET or path.suffix == ".parquet":
            for number, values in parquet_rows(path):
                yield Record(values, f"{path.name}, row {number}")
            return
        with _open_text(path, zipped=start[:2] == GZIP) as text:
            yield from _text_records(text, path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not a text file in UTF-8 ({error}). Save it as UTF-8 JSON, JSON Lines or CSV."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name} is not a whole gzip file ({error}). Make or fetch it again.") from error
    except OSError as error:
        raise DataError(f"The request file {str(path)!r} cannot be read: {error.strerror or error}.") from error


def _open_text(path: Path, zipped: bool) -> TextIO:
    options = {"encoding": "utf-8-sig", "newline": "" if _delimiter(path) else None}
    return cast(TextIO, gzip.open(path, "rt", **options) if zipped else path.open("rt", **options))  # type: ignore[call-overload]


def _text_records(file: TextIO, path: Path) -> Iterator[Record]:
    delimiter = _delimiter(path)
    if delimiter:
        for line, cells in csv_rows(file, path.name, delimiter):
            yield Record(cells, f"{path.name}, line {line}", flat=True)
        return
    is_list = starts_with_list(file)
    unit = "row" if is_list else "line"
    for number, row in json_list(file, path.name) if is_list else json_lines(file, path.name):
        place = f"{path.name}, {unit} {number}"
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected a JSON object with the fields of a request, got {row!r:.60}.")
        yield Record(row, place)


def _delimiter(path: Path) -> str | None:
    """What parts the columns, where the name says that there are columns."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return DELIMITERS.get(suffixes[-1]) if suffixes else None
