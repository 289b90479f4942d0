"""Models of any size with random weights, a tokenizer of made-up words, and requests in them: nothing is downloaded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from costs import Rows, Shape
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lga_lightning.data.requests import EditRequest, Probe

PROMPT, ANSWER, SUBJECT_END = 8, 2, 4
"""Tokens of every prompt and every answer, and the place of the subject's last token."""


@dataclass(frozen=True)
class RandomModel:
    """A model to be made.

    Attributes:
        family: Its type, as transformers names it.
        shape: Its shape.
        settings: Arguments of its configuration that the shape does not tell.
    """

    family: str
    shape: Shape
    settings: tuple[tuple[str, Any], ...] = ()

    def make(self, device: str, dtype: torch.dtype, attention: str | None = None) -> PreTrainedModel:
        """The model, frozen and in eval mode.

        Args:
            device: Where its weights are drawn.
            dtype: Their dtype.
            attention: How transformers computes attention; None for its default.
        """
        s = self.shape
        chosen: dict[str, Any] = {"vocab_size": s.vocabulary, "tie_word_embeddings": s.tied, **dict(self.settings)}
        if self.family == "gpt2":
            chosen |= {"n_embd": s.width, "n_layer": s.depth, "n_head": s.heads, "n_inner": s.inner}
        else:
            chosen |= {"hidden_size": s.width, "num_hidden_layers": s.depth, "num_attention_heads": s.heads}
            chosen |= {"num_key_value_heads": s.kv_heads, "head_dim": s.head_width, "intermediate_size": s.inner}
        if s.experts > 1:
            chosen |= {"moe_intermediate_size": s.inner, "num_experts": s.experts, "num_experts_per_tok": s.active}
        config = CONFIG_MAPPING[self.family](bos_token_id=None, eos_token_id=None, pad_token_id=None, **chosen)
        with torch.random.fork_rng([device] if device.startswith("cuda") else []), torch.device(device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        return model.eval().requires_grad_(False)


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word.

    Args:
        vocabulary: Number of tokens.
    """
    words = {"<unk>": 0, "a": 1, **{f"w{index}": index for index in range(2, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>")


def random_requests(count: int, vocabulary: int, seed: int = 0) -> list[EditRequest]:
    """Requests of random words, each with a rephrase and two locality probes, all of one length.

    Args:
        count: Number of requests.
        vocabulary: Number of the tokenizer's tokens.
        seed: Seed of the draws.
    """
    draw = random.Random(seed)

    def words(number: int) -> list[str]:
        return [f"w{draw.randrange(2, vocabulary)}" for _ in range(number)]

    def text(number: int) -> str:
        return " ".join(words(number))

    found = []
    for _ in range(count):
        prompt = words(PROMPT)
        probes = tuple(Probe(text(PROMPT), (text(ANSWER),)) for _ in range(2))
        found.append(
            EditRequest(
                prompt=" ".join(prompt),
                subject=" ".join(prompt[: SUBJECT_END + 1]),
                target_new=text(ANSWER),
                rephrases=(text(PROMPT),),
                locality={"neighborhood": probes},
            )
        )
    return found


def rows_of_search(count: int, contexts: int, context_tokens: int) -> tuple[Rows, Rows]:
    """The rows of a search for target values of such requests: the prompts in their contexts, and "{subject} is a".

    Args:
        count: Number of requests.
        contexts: Number of contexts, the bare prompt among them.
        context_tokens: Tokens of the longest.
    """
    after = PROMPT + ANSWER - 1 - SUBJECT_END  # from the subject's last token to the last position
    return Rows(count * contexts, after, ANSWER, SUBJECT_END + context_tokens), Rows(count, 1, 1, SUBJECT_END)
