"""What a model's weights are, in a few characters: names alone do not tell two models apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lga_lightning.models.packed import is_packed, packing, stored
from lga_lightning.models.storage import held, of_any, whole_parameters
from lga_lightning.utils.per_model import PerModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FOUND: PerModel[tuple[tuple[tuple[int, int, bytes], ...], str]] = PerModel()


def weights_hash(model: PreTrainedModel) -> str:
    """SHA-256 of all weights with their names, dtypes and shapes; worked out anew only where one of them has changed since.

    With a sharded model a collective operation, which gathers one weight at a time.

    Args:
        model: A language model.
    """
    state = tuple(_state(part) for tensor in held(model) for part in stored(tensor))
    known = _FOUND.get(model)
    if known is not None and not of_any(model, [0] if known[0] != state else []):
        return known[1]
    digest = hashlib.sha256()
    for name, parameter in whole_parameters(model):
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
        for part in stored(parameter):
            digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    _FOUND[model] = state, digest.hexdigest()
    return digest.hexdigest()


def weights_sample(model: nn.Module) -> tuple[bytes, ...]:
    """Some numbers of each weight that this process holds: quick, and the same again once a change was undone.

    Args:
        model: A model.
    """
    return tuple(_some(part) for tensor in held(model) for part in stored(tensor))


def _state(part: Tensor) -> tuple[int, int, bytes]:
    """Where a tensor is, its version, and some of its numbers: fused optimizers and writes to ``.data`` raise no version."""
    return part.data_ptr(), 0 if part.is_inference() else part._version, _some(part)


def _some(part: Tensor) -> bytes:
    if part.is_meta:
        return b""
    some = part.detach()[tuple(slice(None, None, size // 16 | 1) for size in part.shape)]
    return some.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def weights_mark(model: PreTrainedModel) -> str:
    """Dtype and the beginning of :func:`weights_hash`, for result files: ``"float32 1f0c..."``, of packed weights ``"Int8Tensor 77ab..."``.

    The same model in two dtypes has two marks, and there is no telling from these whether it is the same model.
    """
    packed = (packing(parameter) for parameter in model.parameters() if is_packed(parameter))
    return f"{next(packed, str(model.dtype)).removeprefix('torch.')} {weights_hash(model)[:16]}"


def may_be_the_same(one: str | None, other: str) -> bool:
    """Whether two marks can belong to the same model: they are equal, or of different dtypes, or there is only one.

    Example:
        >>> may_be_the_same("float32 a", "float32 b"), may_be_the_same("float32 a", "bfloat16 b"), may_be_the_same(None, "float32 b")
        (False, True, True)
    """
    return one is None or one == other or one.split()[0] != other.split()[0]
