"""Files that tell when a byte of them is not the one that was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.utils.io import finite, write_whole

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "checksum"


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same content for a JSON file, with a last field ``checksum``.

    Args:
        content: What JSON can say; numbers that are not finite are written as null.

    Example:
        >>> was_changed(with_checksum({"layer": 3})), was_changed({**with_checksum({"layer": 3}), "layer": 7}), was_changed({"layer": 3})
        (False, True, False)
    """
    plain: dict[str, Any] = json.loads(json.dumps(finite(content)))
    return {**plain, CHECKSUM: _digest(plain)}


def was_changed(content: Mapping[str, Any]) -> bool:
    """Whether the content of a JSON file is another than the one that was written; without a checksum there is no telling.

    Args:
        content: All fields, as they were read.
    """
    fields = {name: value for name, value in content.items() if name != CHECKSUM}
    return CHECKSUM in content and content[CHECKSUM] != _digest(fields)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> None:
    """Write a safetensors file, whole, with a checksum in its note.

    Args:
        path: Where the file is to appear.
        tensors: Tensors by name; they are taken to the CPU.
        note: What is written with them.

    Raises:
        WriteError: If it could not be written.
    """
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    signed = {**note, CHECKSUM: _tensors_digest(plain, note)}
    write_whole(path, lambda scratch: save_file(plain, scratch, signed))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`save_tensors` wrote: the tensors by name, and the note.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no safetensors file, or has another content than was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            note = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    checksum = note.pop(CHECKSUM, None)
    if checksum is not None and checksum != _tensors_digest(tensors, note):
        raise ValueError("its content is not the one that its checksum is of")
    return tensors, note


def file_checksum(path: Path) -> str:
    """SHA-256 of a file.

    Args:
        path: The file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _tensors_digest(tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(dict(note), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
