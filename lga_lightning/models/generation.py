"""What a model says by itself: greedy answers, and texts drawn by its own probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lga_lightning.exceptions import ModelError
from lga_lightning.models.cached_prompts import CachedPrompts
from lga_lightning.models.encoding import prompt_ids
from lga_lightning.models.hooks import frozen
from lga_lightning.models.kv_cache import pad_left
from lga_lightning.models.likelihood import input_device, without_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


FULL_STOPS = ".\u3002\u0964\u06d4"  # of Latin, Chinese and Japanese, Hindi, and Urdu writing


def greedy_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int = 50
) -> list[str]:
    """A model's greedy answers to prompts, up to the first newline, full stop or end of text.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Texts to continue.
        max_new_tokens: Most tokens of an answer.

    Returns:
        One answer a prompt, without white space around it; "" where the model says nothing before a stop.
    """
    with frozen(model):
        asked = CachedPrompts(model, tokenizer, prompts)
        texts = asked.continuations(max_new_tokens, full_stops([1] * len(asked)))
    return [answer_prefixes(text)[0] for text in texts]


def full_stops(counts: Sequence[int]) -> Callable[[int, str], bool]:
    """When a row of :meth:`CachedPrompts.continuations` is finished: at a newline, or at a given full stop.

    Args:
        counts: For each row, the number of full stops that end it.

    Returns:
        Takes a row and the text of its newest token, and says whether the row ends there.
    """
    left = list(counts)

    def finished(row: int, text: str) -> bool:
        left[row] -= count_full_stops(text)
        return left[row] <= 0 or "\n" in text

    return finished


def count_full_stops(text: str) -> int:
    """How many full stops a text has, of whatever script."""
    return sum(map(text.count, FULL_STOPS))


def answer_prefixes(text: str) -> list[str]:
    r"""The beginnings of a text that may be its answer: its first line, up to each full stop, and whole.

    A full stop may end the answer or belong to it, so all are tried.

    Example:
        >>> answer_prefixes(" St. Louis. It\n is")
        ['St', 'St. Louis', 'St. Louis. It']
    """
    line = text.split("\n")[0]
    stops = [place for place, c in enumerate(line) if c in FULL_STOPS]
    ends = stops if stops and not line[stops[-1] + 1 :].strip() else [*stops, len(line)]
    return [line[:end].strip() for end in ends]


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any
) -> Tensor:
    """Let a model continue texts in one batch, by its own probabilities alone.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: N texts.
        options: Options of transformers' ``generate`` that say how tokens are picked.

    Returns:
        Token ids [N, width + new], the texts padded on the left to ``width``.
    """
    padded = pad_left(prompt_ids(tokenizer, texts), input_device(model))
    return _continued(model, tokenizer, padded.input_ids, padded.attention_mask, **options)


def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int, length: int, seed: int
) -> list[list[int]]:
    """Texts of a model's own, drawn token by token by its probabilities.

    Args:
        model: A causal language model; it is not changed, nor is the random state.
        tokenizer: Its tokenizer, for the token that texts begin with.
        rows: Number of texts.
        length: Number of tokens of each.
        seed: Seed of the draws, which are made on the model's device.

    Returns:
        Token ids of the texts, all of the same length.
    """
    device = input_device(model)
    first = next(i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if i is not None)
    ids = output = torch.full((rows, 1), first, device=device)
    with seeded(device, seed):
        if length > 1:  # or there is nothing to draw, which transformers refuses
            output = _continued(model, tokenizer, ids, torch.ones_like(ids), **sampling_options(length - 1), top_k=0)
    texts: list[list[int]] = output.tolist()
    return texts


def sampling_options(length: int) -> dict[str, Any]:
    """Options of :func:`generate` for new tokens drawn by the model's own probabilities.

    Args:
        length: Number of new tokens, neither more nor fewer.
    """
    return {
        "min_new_tokens": length,
        "max_new_tokens": length,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
    }


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Within the ``with`` block, draws on a device begin at a seed; afterwards the random state is what it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _continued(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor, **options: Any
) -> Tensor:
    """Rows of token ids with what the model adds to them.

    Raises:
        ModelError: If tokens are to be drawn by probabilities that are no numbers.
    """
    drawn = [_Drawable(model)] if options.get("do_sample") else []
    with torch.no_grad(), frozen(model), _without_preferences(model) as bare:
        output: Tensor = bare.generate(
            input_ids=ids,
            attention_mask=mask,
            pad_token_id=tokenizer.eos_token_id or 0,
            logits_processor=LogitsProcessorList(drawn),
            **options,
        )
    return output


@contextmanager
def _without_preferences(model: PreTrainedModel) -> Iterator[Any]:
    """Within the ``with`` block, a model's generation config asks for nothing but the tokens that end a text.

    Yields:
        The model, of one within PEFT what is within: PEFT would put its own config in the place of this one, and leave it there.
    """
    bare = without_peft(model)
    kept = bare.generation_config
    bare.generation_config = GenerationConfig(eos_token_id=kept.eos_token_id)
    try:
        yield bare
    finally:
        bare.generation_config = kept


class _Drawable(LogitsProcessor):
    """Leaves logits as they are, and refuses those that no token can be drawn from: a GPU would not survive the attempt."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not scores.amax(-1).isfinite().all():  # tokens that are not to be drawn are at -inf
            raise ModelError(
                f"The model says NaN or infinite logits, so no text can be drawn from it. It computes in {self.model.dtype}: check its "
                "weights for NaN (a broken download or conversion), and in float16 try --model.dtype bfloat16 or float32, whose range "
                "is wider."
            )
        return scores
