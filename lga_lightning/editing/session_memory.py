"""What an editing session remembers of its edits, as named tensors and back: for files, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import torch
from torch import Tensor

SEPARATOR = "/"
"""Between the parts of a name; a module's own name has dots."""


def pack_history(history: Mapping[Any, Any]) -> dict[str, Tensor]:
    """A history as tensors by name, bit for bit.

    Args:
        history: By block or by a module's name, a tensor, or a dataclass of tensors, numbers and such dataclasses.

    Example:
        >>> pack_history({3: torch.ones(2)})
        {'3': tensor([1., 1.])}
    """
    return {name: tensor for key, entry in history.items() for name, tensor in _packed(str(key), entry).items()}


def unpack_history(state: Mapping[str, Tensor], entry: type) -> dict[Any, Any]:
    """The way back from :func:`pack_history`.

    Args:
        state: Tensors by name.
        entry: What the history has of each block or module: ``Tensor``, or the dataclass.

    Example:
        >>> unpack_history({"3": torch.ones(2)}, Tensor)
        {3: tensor([1., 1.])}
    """
    keys = dict.fromkeys(name.partition(SEPARATOR)[0] for name in state)
    return {int(key) if key.isdigit() else key: _unpacked(entry, key, state) for key in keys}


def _packed(name: str, entry: Any) -> dict[str, Tensor]:
    if not is_dataclass(entry):
        return {name: torch.as_tensor(entry)}
    parts = [_packed(f"{name}{SEPARATOR}{field.name}", getattr(entry, field.name)) for field in fields(entry)]
    return {key: tensor for part in parts for key, tensor in part.items()}


def _unpacked(entry: type, name: str, state: Mapping[str, Tensor]) -> Any:
    if not is_dataclass(entry):
        return state[name] if entry is Tensor else entry(state[name].item())
    kinds = get_type_hints(entry)
    return entry(
        **{field.name: _unpacked(kinds[field.name], f"{name}{SEPARATOR}{field.name}", state) for field in fields(entry)}
    )
