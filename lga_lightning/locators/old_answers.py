"""Requests without an old target: what the model answers now takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import DataError
from lga_lightning.models.generation import greedy_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def with_old_targets(
    llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> list[EditRequest | None]:
    """Requests with an old target: theirs, or the model's greedy answer. None where that gives no pair of answers.

    Args:
        llm: A causal language model.
        tokenizer: Its tokenizer.
        requests: The requests.
    """
    open_rows = [row for row, request in enumerate(requests) if request.target_old is None]
    completed: list[EditRequest | None] = list(requests)
    if open_rows:
        answers = greedy_answers(llm, tokenizer, [requests[row].prompt for row in open_rows])
        for row, answer in zip(open_rows, answers, strict=True):
            usable = answer and answer != requests[row].target_new.strip()
            completed[row] = replace(requests[row], target_old=answer) if usable else None
    return completed


def all_with_old_targets(
    llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> list[EditRequest]:
    """As :func:`with_old_targets`, for a caller who wants a score of every request.

    Args:
        llm: A causal language model.
        tokenizer: Its tokenizer.
        requests: The requests.

    Raises:
        DataError: Names the first request that has no old target, and to which the model gives no other answer than the new one.
    """
    completed = []
    for request, found in zip(requests, with_old_targets(llm, tokenizer, requests), strict=True):
        if found is None:
            raise DataError(
                f"The request {request.prompt!r} has no `target_old`, and the model's own answer cannot stand for it: there is none, or "
                "it is the new one already. Give a `target_old`, or leave the request out (find_golden_layer does that by itself)."
            )
        completed.append(found)
    return completed
