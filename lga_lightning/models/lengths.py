"""Whether the texts of requests are short enough for a model, before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import InvalidRequest
from lga_lightning.models.architecture import longest_text
from lga_lightning.models.encoding import prompt_ids, target_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AROUND = 64  # tokens that a tokenizer or a chat puts around a text
LONGEST_TOKEN = 256  # characters, more than any token has


def texts_of(request: EditRequest) -> Iterator[tuple[str, str]]:
    """Every prompt about a request with every answer that is put behind it."""
    accepted = [request.target_new, *request.target_new_aliases]
    old = [] if request.target_old is None else [request.target_old, *request.target_old_aliases]
    for prompt in (request.prompt, *request.rephrases):
        yield from ((prompt, answer) for answer in (*accepted, *old))
    for family in (request.portability, request.locality):
        for probes in family.values():
            yield from ((probe.prompt, answer) for probe in probes for answer in probe.answers)
    yield from ((prompt, "") for prompt in request.generation_prompts)


def check_lengths(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    texts: Callable[[EditRequest], Iterable[tuple[str, str]]] = texts_of,
    way_out: str = "Shorten it, or leave the request out.",
) -> None:
    """Refuse texts that take more positions than a model has.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer.
        requests: The requests.
        texts: What is asked about a request: prompts, each with an answer that is put behind it, or "".
        way_out: What a user can do about one that is too long.

    Raises:
        InvalidRequest: Names the first such text, and how long it may be.
    """
    for request in requests:
        for prompt, answer in texts(request):
            size = len((prompt + answer).encode()) + AROUND
            if longest_text(model, size) == size:  # a token has a byte or more
                continue
            if (tokens := _count(model, tokenizer, prompt, answer)) is not None:
                place = f" ({request.id})" if request.id else ""
                raise InvalidRequest(
                    "too long for the model",
                    f"The prompt {prompt[:60]!r}{place} takes {tokens:,} tokens with its answer, and the model has "
                    f"{longest_text(model, tokens):,} positions. {way_out}",
                )


def _count(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> int | None:
    """Number of tokens of a text that has too many, or a number that it has at least; None of a text that fits."""
    least = len(prompt + answer) // LONGEST_TOKEN
    if longest_text(model, least) < least:  # megabytes, which would take minutes to count
        return least
    tokens = len(prompt_ids(tokenizer, [prompt])[0]) + (len(target_ids(tokenizer, answer)) if answer else 0)
    return tokens if longest_text(model, tokens) < tokens else None
