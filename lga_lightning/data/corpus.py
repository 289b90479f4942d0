"""Plain texts, and passages of them: from a file, or a data set of the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lga_lightning.data.sources import read_records
from lga_lightning.exceptions import DataError

BUNDLED = "bundled"
GENERAL_TEXT = Path(__file__).parent / "general_text.txt"
FIELD = "text"
WORDS = 100


def text_source(source: str | Path) -> str | Path:
    """The file that ``bundled`` stands for, or any other source as it is."""
    return GENERAL_TEXT if source == BUNDLED else source


def read_texts(source: str | Path) -> Iterator[str]:
    """Texts, one after the other, without holding them all.

    Args:
        source: ``bundled`` for the text of the package: countries and everyday prose, about 320 kB. Or a file: ``.jsonl`` or
            ``.json`` (strings, or objects with the field ``text``), ``.csv``, ``.tsv`` or ``.parquet`` (with a column ``text``),
            else plain text with blank lines between texts; text files also as ``.gz``. Or a data set of the Hub with a field ``text``, streamed:
            ``hub:owner/name@revision?config=...&split=...&file=...``, of which all but ``owner/name`` may be left out.

    Raises:
        DataError: If there is no such file or data set, or it holds something else.
    """
    for record in read_records(text_source(source), text_field=FIELD):
        if FIELD not in record.values:
            raise DataError(
                f"{record.place}: expected a string, or an object with the field {FIELD!r}, got the fields "
                f"{sorted(map(str, record.values))}. Rename the field that holds the text."
            )
        yield record.text(FIELD)


def read_passages(source: str | Path, most: int = 1000) -> tuple[str, ...]:
    """Passages of 100 words from plain texts, white space folded; what is left over at the end is dropped.

    Args:
        source: A file or a data set, as :func:`read_texts` takes it.
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
        raise DataError(f"The plain text must hold at least {WORDS} words, but {str(source)!r} has {len(words)}.")
    return tuple(" ".join(words[WORDS * number : WORDS * (number + 1)]) for number in range(count))
