"""Plain text, in passages, on which the drift of a model's perplexity is measured."""

from __future__ import annotations

from pathlib import Path

from lga_lightning.errors import DataError

WORDS = 100


def read_passages(path: Path) -> tuple[str, ...]:
    """Passages of 100 words from a text file, white space folded; what is left over at its end is dropped.

    Args:
        path: A text file in UTF-8.

    Raises:
        DataError: If it cannot be read, or holds less than one passage.
    """
    try:
        words = path.expanduser().read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"`text` must be a plain text file in UTF-8, but {str(path)!r} cannot be read: {error}."
        ) from error
    if len(words) < WORDS:
        raise DataError(f"`text` must hold at least {WORDS} words, but {str(path)!r} has {len(words)}.")
    return tuple(" ".join(words[start : start + WORDS]) for start in range(0, len(words) - WORDS + 1, WORDS))
