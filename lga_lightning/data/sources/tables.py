"""Rows of tables: CSV line by line, Parquet batch by batch."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from lga_lightning.exceptions import DataError

LONGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131,072
BATCH = 256  # rows


def csv_rows(file: TextIO, name: str, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbers of first lines, and cells by column, of a CSV file whose first row names the columns.

    Args:
        file: Opened with ``newline=""``.
        name: Its name, for messages.
        delimiter: What parts the columns.

    Raises:
        DataError: If quotes are not closed, a row has other columns than the header, or a column has no name of its own.
    """
    before = csv.field_size_limit(LONGEST_CELL)
    line = 1
    try:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        for row in rows:
            if not row:
                pass  # a blank line
            elif header is None:
                header = row
                if len({column for column in header if column}) < len(header):
                    raise DataError(f"{name}, line {line}: every column needs a name of its own, got {header}.")
            elif len(row) != len(header):
                raise DataError(
                    f"{name}, line {line}: the row has {len(row)} cells, the header {len(header)} ({', '.join(header)}). "
                    'Put cells that hold the delimiter, a quote or a line break in quotes: "..."'
                )
            else:
                yield line, dict(zip(header, row, strict=True))
            line = rows.line_num + 1
    except csv.Error as error:
        raise DataError(
            f'{name}, line {line} is not valid CSV: {error}. Quote cells as "...", and a quote inside as two.'
        ) from error
    finally:
        csv.field_size_limit(before)


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers and values of a Parquet file.

    Raises:
        DataError: If it is no whole Parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if len(set(columns)) < len(columns):
                raise DataError(f"{path.name}: every column needs a name of its own, got {columns}.")
            for batch in file.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        where = f" after row {number}" if number else ""
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path.name} is not a whole Parquet file{where}: {reason} Make or fetch it again.") from error
