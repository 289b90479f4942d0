"""Key-value caches: rows padded so that they fit into one, and copies that a pass may grow."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class LeftPadded:
    """N rows of token ids that all end at the same place, so that what follows is appended to all of them at once.

    The fields have the names of a model's arguments.

    Attributes:
        input_ids: [N, W] token ids, 0 on padding.
        attention_mask: [N, W] 1 on tokens, 0 on padding.
        position_ids: [N, W] positions in the text, from 0; 0 on padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor


def pad_left(rows: Sequence[Sequence[int] | Tensor], device: torch.device) -> LeftPadded:
    """Pad rows on the left.

    Args:
        rows: N rows of token ids, as lists or tensors; some may be empty.
        device: Where the batch is wanted.

    Example:
        >>> padded = pad_left([[5, 6, 7], [8]], torch.device("cpu"))
        >>> padded.input_ids.tolist(), padded.position_ids.tolist()
        ([[5, 6, 7], [0, 0, 8]], [[0, 1, 2], [0, 0, 0]])
        >>> padded.attention_mask.tolist()
        [[1, 1, 1], [0, 0, 1]]
    """
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_side="left").to(device)
    lengths = torch.tensor([len(row) for row in tensors], device=device)
    positions = torch.arange(ids.shape[1], device=device) - (ids.shape[1] - lengths).unsqueeze(1)
    return LeftPadded(ids, (positions >= 0).long(), positions.clamp_min(0))


def copy_of_cache(cache: Any) -> Any:
    """A cache for a pass to grow, which leaves the given one as it is; the tensors are shared until then.

    Args:
        cache: A dynamic cache of transformers, or None, which stays None.
    """
    if cache is None:
        return None
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied
