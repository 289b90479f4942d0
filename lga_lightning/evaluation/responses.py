"""Ask a model questions: how likely its right answers are, and what it says by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lga_lightning.evaluation.prompts import FLUENCY, PERPLEXITY, EvalPrompt
from lga_lightning.models.cached_prompts import Attach, CachedPrompts
from lga_lightning.models.chat import plain
from lga_lightning.models.encoding import IGNORE, EncodedAnswers, target_ids, without_eos
from lga_lightning.models.generation import full_stops
from lga_lightning.models.likelihood import answer_logits, answer_nll, input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FLUENCY_TOKENS = 100


@dataclass(frozen=True)
class Response:
    """What a model made of a question.

    Attributes:
        predictions: [A] most likely token at each token of the first answer, given the tokens before it.
        labels: [A] the tokens of the first answer.
        nll: Mean negative log-likelihood of the first answer, or of the passage, in nats a token; NaN where there is none.
        alternative_nll: Of the alternative; NaN where there is none.
        text: What the model said by itself; None where it was not asked to.
    """

    predictions: Tensor | None = None
    labels: Tensor | None = None
    nll: float = math.nan
    alternative_nll: float = math.nan
    text: str | None = None


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[EvalPrompt],
    attach: Attach,
    max_new_tokens: int | None = 50,
) -> list[Response]:
    """Ask questions in one batch.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its fast tokenizer.
        questions: N questions of one kind: all with answers, all about fluency, or all about perplexity.
        attach: Edits, by question.
        max_new_tokens: Where an answer of the model's own is cut at the latest; None for none at all.

    Returns:
        N replies.
    """
    if questions[0].group == PERPLEXITY:
        passages = [question.prompt for question in questions]  # no turns of a chat
        return [Response(nll=nll) for nll in _passage_nll(model, plain(tokenizer), passages, attach)]
    prompts = CachedPrompts(model, tokenizer, [question.prompt for question in questions], attach)
    if questions[0].group == FLUENCY:
        texts = prompts.continuations(FLUENCY_TOKENS, lambda row, text: False)
        return [Response(text=text) for text in texts]
    said: Sequence[str | None] = [None] * len(questions)
    if max_new_tokens is not None:
        stops = [1 + max(map(_inner_stops, (*q.answers, q.alternative or ""))) for q in questions]
        said = prompts.continuations(max_new_tokens, full_stops(stops))
    return _read(prompts, questions, said)


def _inner_stops(answer: str) -> int:
    """Full stops within an answer, which must not end it."""
    return answer.strip().rstrip(".").count(".")


def _read(prompts: CachedPrompts, questions: Sequence[EvalPrompt], said: Sequence[str | None]) -> list[Response]:
    """Replies to questions with answers: the first answer and the alternative are read behind the prompt."""
    alternatives = [row for row, question in enumerate(questions) if question.alternative is not None]
    texts = [q.answers[0] for q in questions] + [q.alternative for q in questions if q.alternative is not None]
    known = {text: target_ids(prompts.tokenizer, text) for text in set(texts)}
    rows = [*range(len(questions)), *alternatives]
    predictions, labels, nll = prompts.predictions(rows, [known[text] for text in texts])
    alternative_nll = dict(zip(alternatives, nll[len(questions) :].tolist(), strict=True))
    replies = []
    for row, text in enumerate(said):
        counted = labels[row] != IGNORE
        right = predictions[row, counted], labels[row, counted]
        replies.append(Response(*right, nll[row].item(), alternative_nll.get(row, math.nan), text))
    return replies


def _passage_nll(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], attach: Attach
) -> list[float]:
    """Mean negative log-likelihood of all tokens of a text but the first."""
    rows = [torch.tensor(without_eos(tokenizer, ids)) for ids in tokenizer(list(passages))["input_ids"]]
    ids = pad_sequence(rows, batch_first=True)
    labels = pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=IGNORE)
    positions = torch.arange(labels.shape[1]).expand_as(labels)
    batch = EncodedAnswers(ids, positions, labels, torch.full((len(rows),), -1)).to(input_device(model))
    with torch.no_grad(), attach(torch.arange(len(rows))):
        return answer_nll(answer_logits(model, batch), batch.labels).tolist()
