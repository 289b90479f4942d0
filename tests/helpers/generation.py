"""A model's own words, one token and one prompt at a time."""

from __future__ import annotations

import torch

TOKENS = 16  # what the longest accepted answer of the tests' requests needs


def plain(model, tokenizer, prompt):
    ids = tokenizer(prompt)["input_ids"]
    said = []
    for _ in range(TOKENS):
        token = model(torch.tensor([ids + said])).logits[0, -1].argmax().item()
        said.append(token)
        if token == tokenizer.eos_token_id or any(stop in tokenizer.decode(said) for stop in ("\n", ".")):
            break
    text = tokenizer.decode(said, skip_special_tokens=True)
    return text.split("\n")[0].split(".")[0].strip()


def freely(model, tokenizer, prompt, limit, ends):
    """New tokens until one of some ends, and whether it came; one pass over everything for each, without a cache.

    The prompt is a text, or its token ids.
    """
    ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
    said = []
    while len(said) < limit:
        token = model(torch.tensor([ids + said])).logits[0, -1].argmax().item()
        if token in ends:
            return said, True
        said.append(token)
    return said, False
