"""Texts of the model's own that prompts are put behind, so that an edit holds in other contexts too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lga_lightning.chat import plain
from lga_lightning.generation import generate
from lga_lightning.scoring import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STARTERS = ("The", "Therefore", "Because", "I", "You")


def sample_contexts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: tuple[int, ...] = (5, 10),
    each: int = 10,
    seed: int = 0,
) -> list[str]:
    """Texts sampled from the model, each ending in ". ", with "" (no context) in front.

    The starters ("The", "Therefore", "Because", "I", "You") take turns. The next token is drawn from the five most likely.

    Args:
        model: A causal language model; it is not changed, nor is the random state.
        tokenizer: Its tokenizer.
        lengths: New tokens a text; ROME (arXiv 2202.05262) takes 5 and 10.
        each: Texts a length.
        seed: Of the draws, on the model's device.

    Returns:
        1 + ``len(lengths) * each`` texts.
    """
    if each == 0:
        return [""]
    tokenizer = plain(tokenizer)  # in a chat, too, these are texts of the model's own
    starters = [STARTERS[index % len(STARTERS)] for index in range(each)]
    contexts = [""]
    device = input_device(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for length in lengths:
            output, _ = generate(
                model,
                tokenizer,
                starters,
                min_new_tokens=length,
                max_new_tokens=length,
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=5,
            )
            texts = tokenizer.batch_decode(output, skip_special_tokens=True)
            contexts += [" ".join(text.split()) + ". " for text in texts]
    return contexts
