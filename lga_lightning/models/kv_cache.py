"""Key-value caches: rows padded so that they fit into one, and copies that a pass may grow."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lga_lightning.exceptions import ModelError


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


def cache_of(model: PreTrainedModel, output: Any) -> Any:
    """The cache that a model has filled in a pass.

    Args:
        model: The model.
        output: What it gave in a pass with ``use_cache=True``.

    Raises:
        ModelError: If the model keeps none that later passes could go on from.
    """
    cache = getattr(output, "past_key_values", None)
    if not hasattr(cache, "layers"):
        raise ModelError(
            f"{type(model).__name__} gives no cache of keys and values, from which the search for a target value, fine-tuning and the "
            "evaluation of edits go on. Its layers can be scored; for edits take a model that gives one (llama, qwen3, gemma3, ...)."
        )
    return cache


def check_behind_padding(model: PreTrainedModel, mask: Tensor, logits: Tensor) -> None:
    """Refuse a model that cannot look past padding on the left.

    Args:
        model: The model.
        mask: [N, W] 1 on tokens, 0 on padding.
        logits: [N, 1, V] what it says at the last of W.

    Raises:
        ModelError: If it gives NaN behind padding and nowhere else, as transformers' eager attention does in float64: it masks with
            the smallest float64, which is infinite in the softmax of float32.
    """
    if logits.dtype != torch.float64 or model.config._attn_implementation == "sdpa" or not len(mask):
        return
    broken, padded = logits.isnan().any(-1).squeeze(1).to(mask.device), mask[:, 0] == 0
    behind = padded & (mask[:, -1] == 1)
    # a row with an edit of its own may be broken by that
    if behind.any() and broken[behind].all() and not broken[~padded].any():
        raise ModelError(
            f"{type(model).__name__} in float64 gives NaN where texts of unequal lengths are read together: its attention "
            f"({model.config._attn_implementation!r}) takes a softmax in float32, which has no room for float64's mask. Load it in "
            "float32 (--model.dtype float32), or with attn_implementation='sdpa' where the family has it."
        )


def copy_of_cache(cache: Any, rows: Tensor | None = None) -> Any:
    """A cache for a pass to grow, which leaves the given one as it is; the tensors are shared until then.

    Args:
        cache: A dynamic cache of transformers, or None, which stays None.
        rows: [M] the rows that are wanted; None for all.
    """
    if cache is None:
        return None
    copied = copy.copy(cache)
    copied.layers = [_copy_of_layer(layer) for layer in cache.layers]
    if rows is not None:
        copied.reorder_cache(rows)
    return copied


def keeps_states(cache: Any) -> bool:
    """Whether some layer of a cache keeps a state in place of keys: a state space, linear attention or a short convolution.

    Args:
        cache: A cache, or None.
    """
    return cache is not None and any(map(_is_recurrent, cache.layers))


def _is_recurrent(layer: Any) -> bool:
    return isinstance(getattr(layer, "recurrent_states", None), dict)


def _copy_of_layer(layer: Any) -> Any:
    copied = copy.copy(layer)
    if _is_recurrent(layer):
        # transformers writes new states over the old ones, which other copies and the backward pass still need
        for name, states in vars(layer).items():
            if isinstance(states, dict):
                own = {key: state.clone() if isinstance(state, Tensor) else state for key, state in states.items()}
                setattr(copied, name, own)
        copied.update_recurrent_state = partial(_replace_state, copied)
    return copied


def _replace_state(layer: Any, state: Tensor, state_idx: int = 0, **options: Any) -> Tensor:
    layer.recurrent_states[state_idx] = state
    layer.is_recurrent_states_initialized[state_idx] = True
    return state
