"""A model asked as its users ask it: free decoding to its natural end, with and without a context before the question.

After *The Mirage of Model Editing* (arXiv 2502.11177), which found most of the success of edits to come from teacher forcing:
behind the right tokens, and at the right length, which nobody gives a model that is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lga_lightning.evaluation.prompts import EvalPrompt
from lga_lightning.evaluation.responses import Response, answer_limits
from lga_lightning.models.cached_prompts import Attach, CachedPrompts
from lga_lightning.models.chat import as_read

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def speak_freely(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[EvalPrompt],
    responses: Sequence[Response],
    attach: Attach,
    limit: int,
    context: str = "",
) -> list[Response]:
    """Add what a model says freely to its teacher-forced responses.

    Args:
        model: A causal language model in eval mode.
        tokenizer: The tokenizer that prompts are asked with (:func:`~lga_lightning.models.chat.as_asked`).
        prompts: N prompts with answers.
        responses: N responses to them.
        attach: Edits, by prompt.
        limit: Most new tokens of an answer that comes to no end; more where accepted answers are longer.
        context: A text to put before every prompt when it is asked a second time; "" for no second time.

    Returns:
        N responses with ``asked``, ``text`` and ``ended``, and with a context also ``text_in_context``.
    """
    texts, limits = [prompt.prompt.rstrip() for prompt in prompts], answer_limits(tokenizer, prompts, limit)
    said = CachedPrompts(model, tokenizer, texts, attach).to_their_ends(limits)
    found = [
        replace(response, asked=as_read(tokenizer, text), text=words.text.strip(), ended=words.ended)
        for response, text, words in zip(responses, texts, said, strict=True)
    ]
    if not context:
        return found
    behind = [in_context(text, context) for text in texts]
    within = CachedPrompts(model, tokenizer, behind, attach).to_their_ends(limits)
    return [
        replace(response, text_in_context=words.text.strip(), ended=bool(response.ended and words.ended))
        for response, words in zip(found, within, strict=True)
    ]


def in_context(prompt: str, context: str) -> str:
    r"""A prompt with a text in a paragraph of its own before it.

    Example:
        >>> in_context("Oslo is in", "It rained.")
        'It rained.\n\nOslo is in'
    """
    return f"{context.strip()}\n\n{prompt}"
