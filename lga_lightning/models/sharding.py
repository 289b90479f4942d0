"""Load a language model of which each of several processes holds a part: shards (FSDP2), or split matrices (tensor parallelism)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lga_lightning.models.architecture import blocks
from lga_lightning.models.loading import empty_model, load_model, load_tokenizer
from lga_lightning.models.splitting import split_
from lga_lightning.models.storage import is_shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_sharded(
    mesh: DeviceMesh,
    device: torch.device,
    name: str,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    split: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen causal language model, a part on each process; a collective operation.

    The first process reads the model into its main memory, and deals it out weight by weight. The others hold their parts, and one whole
    weight at a time.

    Args:
        mesh: The processes, in one dimension.
        device: The device of this process.
        name: As :func:`~lga_lightning.models.loading.load_model` takes it.
        dtype: As there.
        attn_implementation: As there.
        trust_remote_code: As there.
        split: Whether the parts are of each matrix, which computes its outputs from them (:func:`~lga_lightning.models.splitting.split_`), and not
            shards that are gathered for each block when it runs.

    Returns:
        The model and its fast tokenizer.

    Raises:
        ModelError: As there, or if the model cannot be split.
    """
    settings = (name, dtype, attn_implementation, trust_remote_code)
    model, whole = empty_model(*settings), None
    (split_ if split else shard_)(model, mesh)
    if torch.distributed.get_rank() == 0:
        whole, tokenizer = load_model(*settings)
    else:
        tokenizer = load_tokenizer(name, trust_remote_code)
    _fill_(model, whole, device)
    return model, tokenizer


def shard_(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Put a model's weights in shards: each block by itself, and what is outside of the blocks.

    Args:
        model: A causal language model.
        mesh: The processes, in one dimension.
    """
    from torch.distributed.fsdp import fully_shard

    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # its output embedding is often the largest weight of all


def _fill_(model: PreTrainedModel, whole: PreTrainedModel | None, device: torch.device) -> None:
    """Give an empty model in parts the weights and buffers of a whole one, which the first process has."""
    from torch.distributed.tensor import distribute_tensor

    told: list[Any] = [None]
    if whole is not None:
        dtypes = {name: parameter.dtype for name, parameter in whole.named_parameters()}
        told = [(dtypes, dict(whole.named_buffers()), whole.generation_config)]
    torch.distributed.broadcast_object_list(told, src=0)
    dtypes, buffers, model.generation_config = told[0]
    filled: dict[int, nn.Parameter] = {}
    for name, empty in model.named_parameters():
        if whole is None:
            values = torch.empty(empty.shape, dtype=dtypes[name], device=device)
        else:
            values = whole.get_parameter(name).to(device)
        if is_shard(empty):
            placed: Any = empty
            values = distribute_tensor(values, placed.device_mesh, placed.placements)
        else:
            torch.distributed.broadcast(values, src=0)
        filled[id(empty)] = nn.Parameter(values, False)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = filled[id(parameter)]
    for name, buffer in buffers.items():
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._buffers[last] = buffer.to(device)
