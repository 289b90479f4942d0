"""Records from anywhere: a file of any kind, or a data set on the Hugging Face Hub; one at a time, never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lga_lightning.data.records import Record
from lga_lightning.data.sources.hub import PREFIX, HubSource
from lga_lightning.data.sources.local import file_hash, read_file
from lga_lightning.utils.io import user_path

__all__ = ["read_records", "source_fingerprint", "source_name"]


def read_records(source: str | Path, text_field: str | None = None) -> Iterator[Record]:
    """Read the records of a file or of a Hub data set, in their order.

    Args:
        source: A file (JSON, JSON Lines, CSV, TSV, each gzipped or not, or Parquet), or
            ``hub:owner/name@revision?config=...&split=...&file=...``, of which all but ``owner/name`` may be left out.
        text_field: For texts: a JSON string, or a paragraph of a plain text file, is a record with this field. None
            refuses both.

    Raises:
        DataError: If the source is missing, cannot be read, or holds something else than objects.
    """
    hub = _hub(source)
    return hub.records() if hub else read_file(user_path(source), text_field)


def source_name(source: str | Path) -> str:
    """What to call a source in results and messages: a file's name, or the Hub's address of a data set."""
    hub = _hub(source)
    return hub.name if hub else Path(source).name


def source_fingerprint(source: str | Path) -> str:
    """What tells a source's content from any other: SHA-256 of a file's bytes, or the commit of a data set of the Hub.

    Raises:
        DataError: If there is no such file or data set.
    """
    hub = _hub(source)
    return hub.commit() if hub else file_hash(user_path(source))


def is_on_hub(source: str | Path) -> bool:
    """Whether a source is a data set of the Hub, and no file."""
    return str(source).startswith(PREFIX)


def _hub(source: str | Path) -> HubSource | None:
    return HubSource.parse(str(source)) if is_on_hub(source) else None
