"""What became of a prompt: a model's responses before and after an edit, scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lga_lightning.evaluation.edit_metrics import BUILT_IN
from lga_lightning.evaluation.judge import Judgement
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.evaluation.prompts import EvalPrompt, family_of
from lga_lightning.evaluation.responses import Response

T = TypeVar("T")


@dataclass(frozen=True)
class EvalResult:
    """What became of one prompt.

    Attributes:
        group: The prompt's group.
        prompt: Its text.
        answers: Its accepted answers.
        scores: Before and after the edit, by the name of a metric: those of ``BUILT_IN`` and of the additional ones that were taken.
        said: The model's own words before and after the edit; None where it was not asked for them.
        said_in_context: The same with a text before the prompt.
        asked: The prompt as the model read it where it spoke freely.
        judgements: What a judge makes of ``said``, before and after; None where there is no judge.
    """

    group: str
    prompt: str
    answers: tuple[str, ...]
    scores: Mapping[str, tuple[float, float]]
    said: tuple[str, str] | None = None
    said_in_context: tuple[str, str] | None = None
    asked: str | None = None
    judgements: tuple[Judgement, Judgement] | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> EvalResult:
        """From a JSON object with the same fields."""
        said, within, judged = record["said"], record["said_in_context"], record["judgements"]
        return cls(
            group=record["group"],
            prompt=record["prompt"],
            answers=tuple(record["answers"]),
            scores={name: (before, after) for name, (before, after) in record["scores"].items()},
            said=said and (said[0], said[1]),
            said_in_context=within and (within[0], within[1]),
            asked=record["asked"],
            judgements=judged and (Judgement(**judged[0]), Judgement(**judged[1])),
        )


def compare_responses(
    prompt: EvalPrompt, before: Response, after: Response, metrics: Sequence[EditMetric] = BUILT_IN
) -> EvalResult:
    """Score a prompt's two responses.

    Args:
        prompt: The prompt.
        before: The unedited model's response.
        after: The edited model's.
        metrics: What to score them by.
    """
    scores: dict[str, tuple[float, float]] = {}
    for metric in metrics:
        pair = metric.score(prompt, before, after) if metric.applies(prompt) else None
        if pair is not None:
            scores[metric.name] = (float(pair[0]), float(pair[1]))
    return EvalResult(
        prompt.group,
        prompt.prompt,
        prompt.answers,
        scores,
        said=_both(before.text, after.text),
        said_in_context=_both(before.text_in_context, after.text_in_context),
        asked=after.asked,
        judgements=_both(before.judgement, after.judgement),
    )


def _both(before: T | None, after: T | None) -> tuple[T, T] | None:
    """A pair; None where a side is missing."""
    return None if before is None or after is None else (before, after)


def mean_scores(results: Sequence[Sequence[EvalResult]], group: str | None, metric: str) -> Tensor:
    """Each request's mean over its prompts of a group, before and after; of ``portability`` and ``locality``, over kinds.

    Args:
        results: N requests' results.
        group: A group of prompts, or the first part of its name; None for all prompts, whatever their group.
        metric: The key of one of the ``scores``.

    Returns:
        [N, 2] means, in float64; NaN where a request has no such prompt.
    """
    rows = torch.full((len(results), 2), math.nan, dtype=torch.float64)
    for row, of_request in enumerate(results):
        kinds: dict[str, list[tuple[float, float]]] = {}
        for result in of_request:
            if metric in result.scores and group in (None, result.group, family_of(result.group)):
                kinds.setdefault(result.group if group else "", []).append(result.scores[metric])
        if kinds:
            rows[row] = torch.stack([torch.tensor(k, dtype=torch.float64).mean(0) for k in kinds.values()]).mean(0)
    return rows
