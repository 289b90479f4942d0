"""What the examples share: a model, a few texts to train on, facts to look at and to edit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lga_lightning import RROME, load_model

TEXTS = [
    "The lighthouse keeper wrote down the weather every evening, and the ships that passed.",
    "In autumn the river carries more water than the mill can use.",
    "She repaired clocks in a shop near the station, mostly for travellers.",
    "Bread that is baked in the morning is sold out by noon on market days.",
    "The library lends instruments as well as books, for three weeks at a time.",
    "When the bridge was closed, the ferry ran again for the first time in years.",
    "He grew tomatoes on the roof, where the wind dried the leaves after rain.",
    "The museum shows maps of the coast as it was two hundred years ago.",
]
QUICK = RROME(steps=12, second_moment="identity")
"""Quick settings, for an example: the defaults take minutes, and harm less."""


def options(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    """The options of an example: ``--tiny`` and ``--folder``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tiny", action="store_true", help="a tiny random model, for a look in seconds")
    parser.add_argument("--folder", type=Path, default=Path("runs/example"), help="where results go")
    return parser.parse_args(arguments)


def language_model(tiny: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M ready to be trained, or a random model of the same family with a tokenizer of single bytes."""
    if not tiny:
        model, tokenizer = load_model("smollm2-135m")
        return model.requires_grad_(True).train(), tokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    byte_level = Tokenizer(models.BPE({**vocabulary, "<end>": len(vocabulary)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary) + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=len(vocabulary),
    )
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(
        tokenizer_object=byte_level, eos_token="<end>", pad_token="<end>"
    )


def rows(tokenizer: PreTrainedTokenizerBase, length: int = 64) -> list[dict[str, Tensor]]:
    """The texts as rows of equal length, as a causal language model is trained on them."""
    ids = [token for text in TEXTS * 4 for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    starts = range(0, len(ids) - length + 1, length)
    return [
        {"input_ids": row, "labels": row} for row in (torch.tensor(ids[start : start + length]) for start in starts)
    ]
