"""Plain text, in passages, on which the drift of a model's perplexity is measured."""

from __future__ import annotations

from lga_lightning.errors import DataError
from lga_lightning.texts import read_texts

WORDS = 100


def read_passages(source: str, most: int = 1000) -> tuple[str, ...]:
    """Passages of 100 words from plain texts, white space folded; what is left over at the end is dropped.

    Args:
        source: A file or a data set, as :func:`~lga_lightning.texts.read_texts` takes it.
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
