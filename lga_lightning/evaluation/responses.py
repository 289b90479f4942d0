"""A model's responses to prompts: how likely the right answers are, and what it says by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.evaluation.judge import Judgement
from lga_lightning.evaluation.prompts import FLUENCY, PERPLEXITY, EvalPrompt
from lga_lightning.metrics.text import exact_match
from lga_lightning.models.answers import read_answers
from lga_lightning.models.architecture import longest_text
from lga_lightning.models.cached_prompts import Attach, CachedPrompts, unedited
from lga_lightning.models.chat import plain
from lga_lightning.models.encoding import IGNORE, EncodedAnswers, pad_right, prompt_ids, target_ids
from lga_lightning.models.generation import FULL_STOPS, answer_prefixes, count_full_stops, full_stops
from lga_lightning.models.likelihood import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FLUENCY_TOKENS = 100


@dataclass(frozen=True)
class Response:
    """What a model made of a prompt.

    Attributes:
        predictions: [A] most likely token at each token of the first answer, given the tokens before it.
        labels: [A] the tokens of the first answer.
        nll: Mean negative log-likelihood of the first answer, or of the passage, in nats a token; NaN where there is none.
        alternative_nll: Mean negative log-likelihood of the alternative; NaN where there is none.
        text: What the model said by itself, up to where its answer ends (see :func:`own_words`), or freely to its own end; None
            where it was not asked to.
        text_in_context: What it said with a text before the prompt; None where it was not asked so.
        ended: Whether all that it said freely came to its own end, and was not cut; None where it did not speak freely.
        asked: The prompt as it read it where it spoke freely, with the chat template if that was used.
        judgement: What a judge makes of ``text``; None where there is none.
    """

    predictions: Tensor | None = None
    labels: Tensor | None = None
    nll: float = math.nan
    alternative_nll: float = math.nan
    text: str | None = None
    text_in_context: str | None = None
    ended: bool | None = None
    asked: str | None = None
    judgement: Judgement | None = None


def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[EvalPrompt],
    attach: Attach,
    max_new_tokens: int | None = 50,
) -> list[Response]:
    """Let a model respond to prompts, all in one batch.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its fast tokenizer.
        prompts: N prompts of one kind: all with answers, all about fluency, or all about perplexity.
        attach: Edits, by prompt.
        max_new_tokens: Where an answer of the model's own is cut (see :func:`answer_limits`); None for none at all.

    Returns:
        N responses.
    """
    texts = [prompt.prompt for prompt in prompts]
    if prompts[0].group == PERPLEXITY:  # no turns of a chat
        return [Response(nll=nll) for nll in passage_nll(model, tokenizer, texts, attach)]
    cached = CachedPrompts(model, tokenizer, texts, attach)
    if prompts[0].group == FLUENCY:
        said = cached.continuations(FLUENCY_TOKENS, lambda row, text: False)
        return [Response(text=own_words(*pair)) for pair in zip(said, prompts, strict=True)]
    words: Sequence[str | None] = [None] * len(prompts)
    if max_new_tokens is not None:
        stops = [1 + max(count_full_stops(_without_last_stop(a)) for a in _expected(prompt)) for prompt in prompts]
        said = cached.continuations(answer_limits(tokenizer, prompts, max_new_tokens), full_stops(stops))
        words = [own_words(*pair) for pair in zip(said, prompts, strict=True)]
    return _read(cached, prompts, words)


def answer_limits(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[EvalPrompt], least: int) -> list[int]:
    """Most new tokens of an answer of the model's own: where accepted answers are longer, enough for them and for their end.

    Args:
        tokenizer: The model's fast tokenizer.
        prompts: N prompts with answers.
        least: The limit where accepted answers are shorter.

    Returns:
        N limits.
    """
    answers = {answer for prompt in prompts for answer in prompt.answers}
    long = [answer for answer in answers if len(answer.encode()) + 2 > least]  # a token has a byte or more
    needed = {answer: len(target_ids(tokenizer, answer)) + 1 for answer in long}
    return [max(least, *(needed.get(answer, least) for answer in prompt.answers)) for prompt in prompts]


def own_words(text: str, prompt: EvalPrompt) -> str:
    """What a model says by itself, up to where its answer to a prompt ends.

    That is its first newline or full stop, but for one within an answer. A continuation for fluency goes on to its end.
    """
    if prompt.group == FLUENCY:
        return text.strip()
    ends, expected = answer_prefixes(text), _expected(prompt)
    exact = next((words for words in ends if words and exact_match(words, expected)), None)
    if exact is not None:
        return exact
    inner = {place for answer in expected for place in _stops_within(answer, ends[-1])}
    return next(words for words in ends if len(words) not in inner)


def _expected(prompt: EvalPrompt) -> tuple[str, ...]:
    """The answers and the alternative, "" where there is none."""
    return *prompt.answers, prompt.alternative or ""


def _stops_within(answer: str, text: str) -> list[int]:
    """Where in a text the full stops are that belong to an answer there."""
    known = _without_last_stop(answer)
    if not count_full_stops(known):
        return []
    spans = [found.span() for found in re.finditer(re.escape(known), text, re.IGNORECASE)]
    return [place for start, end in spans for place in range(start, end) if count_full_stops(text[place])]


def _without_last_stop(answer: str) -> str:
    return answer.strip().rstrip(FULL_STOPS)


def _read(cached: CachedPrompts, prompts: Sequence[EvalPrompt], words: Sequence[str | None]) -> list[Response]:
    """Responses to prompts with answers: the first answer and the alternative are read behind the prompt."""
    alternatives = [row for row, prompt in enumerate(prompts) if prompt.alternative is not None]
    texts = [p.answers[0] for p in prompts] + [p.alternative for p in prompts if p.alternative is not None]
    known = {text: target_ids(cached.tokenizer, text) for text in set(texts)}
    rows = [*range(len(prompts)), *alternatives]
    predictions, labels, nll = cached.predictions(rows, [known[text] for text in texts])
    alternative_nll = dict(zip(alternatives, nll[len(prompts) :].tolist(), strict=True))
    responses = []
    for row, text in enumerate(words):
        counted = labels[row] != IGNORE
        right = predictions[row, counted], labels[row, counted]
        responses.append(Response(*right, nll[row].item(), alternative_nll.get(row, math.nan), text))
    return responses


def passage_nll(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], attach: Attach = unedited
) -> list[float]:
    """Mean negative log-likelihood of all tokens of a text but the first, up to as many as the model has positions.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its fast tokenizer; a chat template is left out.
        passages: N texts.
        attach: Edits, by text.

    Returns:
        N means, in nats a token; NaN of a text of one token.
    """
    rows = [ids[: longest_text(model, len(ids))] for ids in prompt_ids(plain(tokenizer), passages)]
    if max(map(len, rows)) < 2:
        return [math.nan] * len(rows)
    ids, labels = pad_right(rows, 0), pad_right([row[1:] for row in rows], IGNORE)
    positions = torch.arange(labels.shape[1]).expand_as(labels)
    batch = EncodedAnswers(ids, positions, labels, torch.full((len(rows),), -1)).to(input_device(model))
    with torch.no_grad(), attach(torch.arange(len(rows))):
        return read_answers(model, batch).nll.tolist()
