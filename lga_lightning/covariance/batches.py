"""The text that second moments are taken from, in batches that are always the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from lga_lightning.data.corpus import BUNDLED, read_texts
from lga_lightning.data.sources import is_on_hub, source_fingerprint
from lga_lightning.models.architecture import blocks, edit_site, longest_text
from lga_lightning.models.chat import plain
from lga_lightning.models.generation import sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLED = "sampled"
PIECES = 32  # a batch


def token_budget(model: PreTrainedModel) -> int:
    """Number of tokens that second moments are taken from where nobody says: 20 times the width of a key, of the block with the widest.

    Few enough to be quick, and many enough for an inverse: a sample covariance of n tokens in d dimensions errs by about
    sqrt(d / n).
    """
    return 20 * max(edit_site(model, layer).in_features for layer in range(len(blocks(model))))


def batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    tokens: int,
    sequence_length: int,
    skip: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[list[list[int]]]:
    """Pieces of text of so many tokens in all, always the same, ``PIECES`` at a time, those of like length together.

    Args:
        model: The model, which ``sampled`` takes the text from.
        tokenizer: Its tokenizer.
        source: Source of the text, as :func:`~lga_lightning.data.corpus.read_texts` takes it, or ``sampled``.
        tokens: Number of tokens in all; fewer if the text has fewer.
        sequence_length: Number of tokens of a piece, at most.
        skip: Number of batches that are left out (in a resumed run).
        share: Number of this process, and how many there are. Of ``sampled`` text the batches of the others, dealt out in turn, are empty.
    """
    sequence_length = longest_text(model, sequence_length)
    if source == SAMPLED:
        rank, world_size = share
        for number in range(skip, -(-tokens // (PIECES * sequence_length))):
            mine = (number - skip) % world_size == rank
            left = tokens - number * PIECES * sequence_length
            rows = sample(model, tokenizer, PIECES, sequence_length, seed=number) if mine else []
            yield [row[: max(0, left - i * sequence_length)] for i, row in enumerate(rows)]
        return
    pieces = _pieces(tokenizer, source, tokens, sequence_length)
    groups = iter(lambda: list(islice(pieces, 16 * PIECES)), [])
    yield from islice(chain.from_iterable(map(_by_length, groups)), skip, None)


def file_hash_of(setting: str, source: str) -> dict[str, str]:
    """What tells a file of texts from another of its name, as a setting beside that which names it; nothing for any other text.

    Args:
        setting: The setting that names the source.
        source: As :func:`batches` takes it.

    Raises:
        DataError: If there is no such file.
    """
    named = source in (SAMPLED, BUNDLED) or is_on_hub(source)
    return {} if named else {f"{setting}_hash": source_fingerprint(source)}


def _pieces(tokenizer: PreTrainedTokenizerBase, source: str, tokens: int, sequence_length: int) -> Iterator[list[int]]:
    left = tokens
    for text in read_texts(source):
        ids = plain(tokenizer)(text, verbose=False)["input_ids"]
        for start in range(0, len(ids), sequence_length):
            piece = ids[start : start + sequence_length][:left]
            left -= len(piece)
            if piece:
                yield piece
            if left <= 0:
                return


def _by_length(pieces: list[list[int]]) -> Iterator[list[list[int]]]:
    ordered = sorted(pieces, key=len)
    return (ordered[start : start + PIECES] for start in range(0, len(ordered), PIECES))
