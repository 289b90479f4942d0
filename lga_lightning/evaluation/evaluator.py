"""Score edits without making them: every request's questions, before and after the edit, many requests in one batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.delta import WeightDelta, attached
from lga_lightning.evaluation.prompts import FLUENCY, PERPLEXITY, EvalPrompt, prompts_of
from lga_lightning.evaluation.responses import Response, ask
from lga_lightning.evaluation.results import EvalResult, compare_responses, mean_scores
from lga_lightning.exceptions import SettingError
from lga_lightning.models.cached_prompts import unedited
from lga_lightning.models.hooks import frozen

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WIDEST = 16  # edits of a larger rank are not gathered row by row, but attached to all their rows at once


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured besides the teacher-forced scores, which are always taken.

    Args:
        generate: Let the model answer every question in its own words, before and after. Token scores alone flatter.
        max_new_tokens: Where such an answer is cut at the latest.
        fluency: Let it also continue every request's generation prompts (its prompt, where it has none) by 100 tokens, and
            measure how repetitive that is.
        passages: Plain texts, on one of which each request's edit is scored: the drift of perplexity. Empty for no such score.
        max_rows: Questions a batch.

    Raises:
        SettingError: If a number is below 1.
    """

    generate: bool = True
    max_new_tokens: int = 50
    fluency: bool = False
    passages: tuple[str, ...] = ()
    max_rows: int = 64

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"`{name}` must be at least 1, got {getattr(self, name)}.")

    def questions(self, request: EditRequest) -> list[EvalPrompt]:
        """Everything that is asked about a request."""
        asked = prompts_of(request)
        if self.fluency:
            asked += [EvalPrompt(FLUENCY, prompt, ()) for prompt in request.generation_prompts or (request.prompt,)]
        if self.passages:  # the same one in every run, whatever the batch and the process
            number = zlib.crc32(f"{request.prompt}\n{request.target_new}".encode())
            asked.append(EvalPrompt(PERPLEXITY, self.passages[number % len(self.passages)], ()))
        return asked


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    deltas: Sequence[WeightDelta],
    evaluation: EvaluationConfig | None = None,
) -> list[list[EvalResult]]:
    """Ask the questions of every request, of the unedited model and of the model with the request's edit.

    No weight is touched: every question is two rows of a batch, one of which runs with the edit of its request attached.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        deltas: N edits; the same object for requests that are edited together.
        evaluation: What is measured; by default all but fluency and perplexity.

    Returns:
        N lists of results, one result a question, in the order of :meth:`EvaluationConfig.questions`.
    """
    evaluation = evaluation or EvaluationConfig()
    asked = [
        _Asked(row, place, question, delta)
        for row, (request, delta) in enumerate(zip(requests, deltas, strict=True))
        for place, question in enumerate(evaluation.questions(request))
    ]
    found: dict[tuple[int, int], EvalResult] = {}
    with frozen(model):
        for batch in _batches(asked, evaluation.max_rows):
            before, after = _both_sides(model, tokenizer, batch, evaluation)
            for one, *replies in zip(batch, before, after, strict=True):
                found[one.row, one.place] = compare_responses(one.question, *replies)
    results: list[list[EvalResult]] = [[] for _ in requests]
    for one in asked:
        results[one.row].append(found[one.row, one.place])
    return results


def prompt_columns(requests: Sequence[EditRequest]) -> list[str]:
    """The groups of questions that occur: rewrite, rephrase, and every kind of portability and locality, in this order."""
    groups = {question.group for request in requests for question in prompts_of(request)}
    order = ("rewrite", "rephrase", "portability", "locality")
    return sorted(groups, key=lambda group: (order.index(group.split(".")[0]), group))


def evaluate_each(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    deltas: Sequence[WeightDelta],
    columns: Sequence[str],
    max_rows: int = 64,
) -> Tensor:
    """Teacher-forced token scores alone, as a table: quick, for comparing edits with each other.

    Args:
        model: A causal language model; no weight is touched.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        deltas: N edits.
        columns: C groups of questions, as :func:`prompt_columns` gives them.
        max_rows: Questions a batch.

    Returns:
        [N, 2, C] before and after: token accuracy, and for locality the share of unchanged predictions (1 before).
        NaN where a request has no such question.
    """
    results = evaluate(model, tokenizer, requests, deltas, EvaluationConfig(generate=False, max_rows=max_rows))
    return torch.stack([mean_scores(results, column, "token") for column in columns], 2)


@dataclass(frozen=True)
class _Asked:
    """A question, whose it is, and the edit it is about."""

    row: int
    place: int
    question: EvalPrompt
    delta: WeightDelta

    @property
    def kind(self) -> tuple[int, str]:
        """What can go through the model together: questions that are asked alike, and wide edits one by one."""
        wide = max(self.delta.ranks.values(), default=0) > WIDEST
        alike = self.question.group if self.question.group in (FLUENCY, PERPLEXITY) else ""
        return (id(self.delta) if wide else 0, alike)


def _batches(asked: Sequence[_Asked], max_rows: int) -> Iterator[list[_Asked]]:
    """Questions of one kind and of similar length; passages, whose every token has logits, an eighth of the rows."""
    kinds: dict[tuple[int, str], list[_Asked]] = {}
    for one in asked:
        kinds.setdefault(one.kind, []).append(one)
    for (_, alike), members in kinds.items():
        members.sort(key=lambda one: len(one.question.prompt))
        step = max(1, max_rows // 8) if alike == PERPLEXITY else max_rows
        yield from (members[start : start + step] for start in range(0, len(members), step))


def _both_sides(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[_Asked], evaluation: EvaluationConfig
) -> tuple[list[Response], list[Response]]:
    """Replies before and after."""
    questions, tokens = [one.question for one in batch], evaluation.max_new_tokens if evaluation.generate else None
    if batch[0].kind[0]:  # one wide edit
        after = ask(model, tokenizer, questions, lambda rows: attached(model, [batch[0].delta]), tokens)
        return ask(model, tokenizer, questions, unedited, tokens), after
    # both sides in one batch: a step of generation costs as much for a few rows as for some more
    deltas = list({id(one.delta): one.delta for one in batch}.values())
    place = {id(delta): number for number, delta in enumerate(deltas)}
    edit = torch.tensor([len(deltas)] * len(batch) + [place[id(one.delta)] for one in batch])
    deltas.append(WeightDelta({}))
    replies = ask(model, tokenizer, questions * 2, lambda rows: attached(model, deltas, edit[rows]), tokens)
    return replies[: len(batch)], replies[len(batch) :]
