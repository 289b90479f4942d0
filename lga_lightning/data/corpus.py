"""Plain texts, and passages of them: from a file, or a data set of the Hub."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lga_lightning.exceptions import DataError

FIELD = "text"


def read_texts(source: str) -> Iterator[str]:
    """Texts, one after the other, without holding them all.

    Args:
        source: A file: ``.jsonl`` (an object with the field ``text``, or a string, a line), ``.json`` (a list of these), or
            plain text with blank lines between texts, each also as ``.gz``. Else a data set of the Hub, ``owner/name`` or
            ``owner/name:config``, of which the field ``text`` of the split ``train`` is streamed.

    Raises:
        DataError: If there is no such file or data set, or it holds something else.
    """
    path = Path(source).expanduser()
    if not path.exists():
        yield from _hub_texts(source)
        return
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    try:
        with _opened(path) as file:
            if kind == "jsonl":
                rows: Iterator[Any] = (json.loads(line) for line in file if line.strip())
            elif kind == "json":
                rows = iter(json.load(file))
            else:
                rows = _paragraphs(file)
            for number, row in enumerate(rows, start=1):
                text = row.get(FIELD) if isinstance(row, dict) else row
                if not isinstance(text, str):
                    raise DataError(
                        f"{path.name}, text {number}: expected a string, or an object with the field {FIELD!r}, got {row!r:.60}."
                    )
                yield text
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"The texts in {path.name} cannot be read: {error}.") from error


def text_fingerprint(source: str) -> str:
    """A hash of a file's bytes, or the commit of a data set of the Hub."""
    path = Path(source).expanduser()
    if path.is_file():
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source.split(":")[0]).sha)
    except Exception as error:
        raise _no_data_set(source, error) from error


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _paragraphs(lines: IO[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph)
            paragraph = []
    if paragraph:
        yield "".join(paragraph)


def _hub_texts(source: str) -> Iterator[str]:
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        rows = load_dataset(name, config or None, split="train", streaming=True)
        for row in rows:
            yield row[FIELD]
    except Exception as error:
        raise _no_data_set(source, error) from error


def _no_data_set(source: str, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()
    return DataError(
        f"There is no file {source!r}, and no data set of that name with a field {FIELD!r} could be read from the Hub. Give a "
        "text, JSON or JSON Lines file, or the name of a data set (owner/name, or owner/name:config). The loader said: "
        f"{reason[0] if reason else type(error).__name__}"
    )


WORDS = 100


def read_passages(source: str, most: int = 1000) -> tuple[str, ...]:
    """Passages of 100 words from plain texts, white space folded; what is left over at the end is dropped.

    Args:
        source: A file or a data set, as :func:`~lga_lightning.data.corpus.read_texts` takes it.
        most: Passages at most: a long text is read no further.

    Raises:
        DataError: If there is no such source, or it holds less than one passage.
    """
    words: list[str] = []
    for text in read_texts(source):
        words += text.split()
        if len(words) >= most * WORDS:
            break
    count = min(most, len(words) // WORDS)
    if not count:
        raise DataError(f"The plain text must hold at least {WORDS} words, but {source!r} has {len(words)}.")
    return tuple(" ".join(words[WORDS * number : WORDS * (number + 1)]) for number in range(count))
