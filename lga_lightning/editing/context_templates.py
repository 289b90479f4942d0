"""Texts of the model's own that prompts are put behind, so that an edit holds in other contexts too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import SettingError
from lga_lightning.models.chat import plain
from lga_lightning.models.generation import generate, sampling_options, seeded
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.per_weights import PerWeights
from lga_lightning.utils.progress import with_bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STARTERS = ("The", "Therefore", "Because", "I", "You")


@dataclass
class ContextTemplates:
    """The bare prompt and sampled texts, sampled once a model, and anew where its weights have changed.

    Args:
        lengths: Numbers of new tokens of the sampled texts.
        each: Number of texts of each length.
    """

    lengths: tuple[int, ...]
    each: int
    _sampled: PerWeights[list[str]] = field(default_factory=PerWeights, repr=False)

    def __post_init__(self) -> None:
        self.lengths = tuple(self.lengths)
        if self.each < 0 or min(self.lengths, default=1) < 1:
            raise SettingError(
                f"`contexts_each` must be at least 0 and `context_lengths` at least 1, got {self.each} and {self.lengths}."
            )

    def of(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """K texts to put before a prompt, "" the first. Call it first while the model is not edited."""
        return self._sampled.of(model, lambda: sample_contexts(model, tokenizer, self.lengths, self.each))

    def grouped_mean(self, keys: Tensor) -> Tensor:
        """Mean over contexts as the MEMIT family takes it: within the bare prompt and each length, then over these.

        Args:
            keys: Keys [N, K, d] in K contexts, the bare prompt's first.

        Returns:
            Mean keys [N, d].
        """
        groups = [keys[:, :1], *keys[:, 1:].split(self.each, 1)] if self.each else [keys[:, :1]]
        return torch.stack([group.mean(1) for group in groups]).mean(0)


def in_contexts(requests: Sequence[EditRequest], contexts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Every request's prompt in every context: N K texts, row i K + j, and the offsets just past their subjects."""
    pairs = [(request, context) for request in requests for context in contexts]
    texts = [context + request.prompt for request, context in pairs]
    return texts, [len(context) + request.subject_end for request, context in pairs]


def sample_contexts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int] = (5, 10),
    each: int = 10,
    seed: int = 0,
) -> list[str]:
    """Texts sampled from the model, each ending in ". ", with "" (no context) in front.

    The starters ("The", "Therefore", "Because", "I", "You") take turns. The next token is drawn from the five most likely.

    Args:
        model: A causal language model; it is not changed, nor is the random state.
        tokenizer: Its tokenizer.
        lengths: Numbers of new tokens of a text; ROME (arXiv 2202.05262) takes 5 and 10.
        each: Number of texts of each length.
        seed: Seed of the draws, on the model's device.

    Returns:
        1 + ``len(lengths) * each`` texts.
    """
    if each == 0:
        return [""]
    tokenizer = plain(tokenizer)  # in a chat, too, these are texts of the model's own
    starters = [STARTERS[index % len(STARTERS)] for index in range(each)]
    contexts = [""]
    with seeded(input_device(model), seed):
        for length in with_bar(lengths, "Sampling contexts"):
            output = generate(model, tokenizer, starters, **sampling_options(length), top_k=5)
            texts = tokenizer.batch_decode(output, skip_special_tokens=True)
            contexts += [" ".join(text.split()) + ". " for text in texts]
    return contexts
