"""Score edits without making them: every request's questions, before and after, in two passes a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.editing.delta import WeightDelta, attached
from lga_lightning.encoding import EncodedAnswers, encode_answers
from lga_lightning.metrics.tokens import token_accuracy, unchanged_tokens
from lga_lightning.requests import EditRequest
from lga_lightning.scoring import answer_logits, input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROTOCOLS = {
    "rewrite": "token accuracy of target_new on the prompt, teacher-forced",
    "rephrase": "token accuracy of target_new, teacher-forced, mean over the request's rephrases",
    "portability": "token accuracy of a probe's first answer, teacher-forced, mean over probes, then over kinds",
    "locality": "share of a probe's first answer's tokens at which the prediction is that of the unedited model, "
    "teacher-forced, mean over probes, then over kinds",
}


def question_columns(requests: Sequence[EditRequest]) -> list[str]:
    """The groups of questions that occur: rewrite, rephrase, and every kind of portability and locality."""
    columns = ["rewrite"]
    if any(request.rephrases for request in requests):
        columns.append("rephrase")
    for name in ("portability", "locality"):
        kinds = {kind for request in requests for kind, probes in getattr(request, name).items() if probes}
        columns += [f"{name}.{kind}" for kind in sorted(kinds)]
    return columns


def evaluate_each(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    deltas: Sequence[WeightDelta],
    columns: Sequence[str],
    max_rows: int = 64,
) -> Tensor:
    """Score each request's edit on its own questions, on an otherwise unedited model.

    All questions of all requests go through the model together, each row with its own request's edit attached.

    Args:
        model: A causal language model; no weight is touched.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        deltas: N edits.
        columns: C groups of questions, as :func:`question_columns` gives them.
        max_rows: Questions a pass.

    Returns:
        [N, 2, C] before and after: token accuracy, and for locality the share of unchanged predictions (1 before).
        NaN where a request has no such question.
    """
    questions = [
        (row, column, prompt, answer)
        for row, request in enumerate(requests)
        for column, name in enumerate(columns)
        for prompt, answer in _questions(request, name)
    ]
    questions.sort(key=lambda question: len(question[2]) + len(question[3]))  # similar lengths together
    total = torch.zeros(len(requests), 2, len(columns), dtype=torch.float64)
    count = torch.zeros(len(requests), 1, len(columns), dtype=torch.float64)
    for start in range(0, len(questions), max_rows):
        rows, cols, prompts, answers = map(list, zip(*questions[start : start + max_rows], strict=True))
        batch = encode_answers(tokenizer, prompts, answers).to(input_device(model))
        edit = torch.tensor(rows)
        scores = _before_and_after(model, batch, deltas, edit, [columns[c].startswith("locality") for c in cols])
        for side in range(2):
            total[:, side].index_put_((edit, torch.tensor(cols)), scores[side].double().cpu(), accumulate=True)
        count[:, 0].index_put_((edit, torch.tensor(cols)), torch.ones(len(rows)).double(), accumulate=True)
    return total / count.where(count > 0, torch.nan)


def _before_and_after(
    model: PreTrainedModel, batch: EncodedAnswers, deltas: Sequence[WeightDelta], edit: Tensor, is_locality: list[bool]
) -> tuple[Tensor, Tensor]:
    """Scores [M] of questions before the edit and after it."""
    labels = batch.labels
    with torch.no_grad():
        before = answer_logits(model, batch).argmax(-1)
        with attached(model, deltas, edit):
            after = answer_logits(model, batch).argmax(-1)
    locality = torch.tensor(is_locality, device=labels.device)
    return (
        token_accuracy(before, labels).where(~locality, torch.tensor(1.0, device=labels.device)),
        token_accuracy(after, labels).where(~locality, unchanged_tokens(before, after, labels)),
    )


def _questions(request: EditRequest, column: str) -> list[tuple[str, str]]:
    """Prompts and answers of one group of questions."""
    if column == "rewrite":
        return [(request.prompt, request.target_new)]
    if column == "rephrase":
        return [(prompt, request.target_new) for prompt in request.rephrases]
    name, kind = column.split(".", 1)
    return [(probe.prompt, probe.answers[0]) for probe in getattr(request, name).get(kind, ())]
