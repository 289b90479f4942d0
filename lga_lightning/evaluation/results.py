"""What became of a question: a model's replies before and after an edit, compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lga_lightning.evaluation.prompts import FLUENCY, EvalPrompt
from lga_lightning.evaluation.responses import Response
from lga_lightning.metrics.accuracy import token_accuracy, unchanged_tokens
from lga_lightning.metrics.counterfact import magnitude, success
from lga_lightning.metrics.text import begins_with, exact_match, ngram_entropy, normalised
from lga_lightning.models.generation import answer_prefixes

MEASURES = ("token", "generated", "begins", "nll", "success", "magnitude", "fluency")


@dataclass(frozen=True)
class EvalResult:
    """What became of one question.

    Attributes:
        group: The question's group.
        prompt: Its prompt.
        answers: Its accepted answers.
        scores: Before and after the edit, by measure: ``token``, ``generated``, ``begins``, ``nll`` (nats a token of the first answer, or
            of the passage), ``success`` and ``magnitude`` (CounterFact's), ``fluency`` (bits): those of ``MEASURES`` that were taken.
        said: The model's own words before and after the edit; None where it was not asked for them.
    """

    group: str
    prompt: str
    answers: tuple[str, ...]
    scores: Mapping[str, tuple[float, float]]
    said: tuple[str, str] | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> EvalResult:
        """From a JSON object with the same fields."""
        said = record["said"]
        return cls(
            group=record["group"],
            prompt=record["prompt"],
            answers=tuple(record["answers"]),
            scores={name: (before, after) for name, (before, after) in record["scores"].items()},
            said=said and (said[0], said[1]),
        )


def compare_responses(question: EvalPrompt, before: Response, after: Response) -> EvalResult:
    """Score a question's two replies.

    Args:
        question: The question.
        before: The unedited model's reply.
        after: The edited model's.
    """
    scores: dict[str, tuple[float, float]] = {}
    said = None
    is_locality = question.group.startswith("locality")
    if before.predictions is not None and after.predictions is not None and before.labels is not None:
        first, second, labels = (row.unsqueeze(0) for row in (before.predictions, after.predictions, before.labels))
        right = (token_accuracy(first, labels).item(), token_accuracy(second, labels).item())
        scores["token"] = (1.0, unchanged_tokens(first, second, labels).item()) if is_locality else right
    if before.text is not None and after.text is not None:
        said = (_own_words(before.text, question), _own_words(after.text, question))
        if question.group == FLUENCY:
            scores["fluency"] = (ngram_entropy(said[0]), ngram_entropy(said[1]))
        elif is_locality:
            scores["generated"] = (1.0, float(normalised(said[0]) == normalised(said[1])))
        else:
            for name, matches in (("generated", exact_match), ("begins", begins_with)):
                first_right, second_right = (matches(words, question.answers) for words in said)
                scores[name] = (float(first_right), float(second_right))
    if not math.isnan(before.nll):
        scores["nll"] = (before.nll, after.nll)
    if question.alternative is not None:
        nll = torch.tensor([before.nll, after.nll], dtype=torch.float64)
        alternative = torch.tensor([before.alternative_nll, after.alternative_nll], dtype=torch.float64)
        for name, function in (("success", success), ("magnitude", magnitude)):
            one, two = function(nll, alternative).tolist()
            scores[name] = (one, two)
    return EvalResult(question.group, question.prompt, question.answers, scores, said)


def _own_words(text: str, question: EvalPrompt) -> str:
    """The text up to its first stop; up to a later one if what was said up to there is an answer with a full stop in it."""
    if question.group == FLUENCY:
        return text.strip()
    ends, expected = answer_prefixes(text), (*question.answers, question.alternative or "")
    return next((words for words in ends if words and exact_match(words, expected)), ends[0])


def mean_scores(results: Sequence[Sequence[EvalResult]], group: str, measure: str) -> Tensor:
    """Each request's mean over its questions of a group, before and after; of ``portability`` and ``locality``, over kinds.

    Args:
        results: N requests' results.
        group: A group of questions, or the first part of its name.
        measure: One of the ``scores``.

    Returns:
        [N, 2] means, in float64; NaN where a request has no such question.
    """
    rows = torch.full((len(results), 2), math.nan, dtype=torch.float64)
    for row, of_request in enumerate(results):
        kinds: dict[str, list[tuple[float, float]]] = {}
        for result in of_request:
            if measure in result.scores and group in (result.group, result.group.split(".")[0]):
                kinds.setdefault(result.group, []).append(result.scores[measure])
        if kinds:
            rows[row] = torch.stack([torch.tensor(k, dtype=torch.float64).mean(0) for k in kinds.values()]).mean(0)
    return rows
