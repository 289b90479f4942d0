"""Records from anywhere: a file of any kind, or a data set on the Hugging Face Hub; one at a time, never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lga_lightning.data.records import Record
from lga_lightning.data.sources.hub import PREFIX, HubSource
from lga_lightning.data.sources.local import read_file

__all__ = ["read_records", "source_name"]


def read_records(source: str | Path) -> Iterator[Record]:
    """Read the records of a file or of a Hub data set, in their order.

    Args:
        source: A file (JSON, JSON Lines, CSV, TSV, each gzipped or not, or Parquet), or
            ``hub:owner/name@revision?config=...&split=...&file=...``, of which all but ``owner/name`` may be left out.

    Raises:
        DataError: If the source is missing, cannot be read, or holds something else than objects.
    """
    if str(source).startswith(PREFIX):
        return HubSource.parse(str(source)).records()
    return read_file(Path(source).expanduser())


def source_name(source: str | Path) -> str:
    """What to call a source in results and messages: a file's name, or the Hub's address of a data set."""
    return HubSource.parse(str(source)).name if str(source).startswith(PREFIX) else Path(source).name
