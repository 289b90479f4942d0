"""Rows as tables."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
from pyarrow import parquet


def as_csv(rows: list[dict], delimiter: str = ",") -> str:
    """A table: lists and objects as JSON, and what a row lacks as an empty cell."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in row.items() if v is not None}
        )
    return file.getvalue()


def as_parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    names = dict.fromkeys(name for row in rows for name in row)
    parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), buffer)
    return buffer.getvalue()
