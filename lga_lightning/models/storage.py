"""Where weights are: whole on their device, in shards on several processes (FSDP2), or put aside until their module runs (``device_map``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(model: nn.Module) -> bool:
    """Whether several processes hold a shard of a model each, so that all of them have to run it, in step.

    Args:
        model: A model.
    """
    return any(hasattr(module, "reshard") for module in model.modules()) or any(map(is_shard, model.parameters()))


def writes(model: nn.Module) -> bool:
    """Whether it is this process that writes what all processes of a model in shards have found; of a whole model it always is.

    Args:
        model: A model.
    """
    return not is_sharded(model) or torch.distributed.get_rank() == 0


def of_any(model: nn.Module, numbers: Iterable[int]) -> list[int]:
    """The numbers that any process of a model in shards has, so that all do the same; of a whole model these are its own.

    Args:
        model: A model.
        numbers: Those of this process.

    Returns:
        The numbers, ascending.
    """
    mine = sorted(numbers)
    if not is_sharded(model):
        return mine
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, mine)
    return sorted({number for some in every for number in some})


def is_spread(model: nn.Module) -> bool:
    """Whether a model was loaded with a ``device_map``, so that its modules stay on the devices that they were given.

    Args:
        model: A model.
    """
    return getattr(model, "hf_device_map", None) is not None


def is_shard(tensor: object) -> bool:
    """Whether a tensor is distributed, so that this process holds a part of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the shards of all processes; itself where it is whole. A collective operation where it is not.

    Args:
        tensor: A weight, or a view of one.
    """
    if not is_shard(tensor):
        return tensor
    shard: Any = tensor.detach()
    with torch.no_grad():
        gathered: Tensor = shard.full_tensor()
    return gathered


def whole_parameter(module: nn.Module, name: str) -> Tensor:
    """A parameter, wherever it is; see :func:`whole`.

    Args:
        module: The module that has it.
        name: Its name there.
    """
    parameter = module.get_parameter(name)
    if not parameter.is_meta:
        return whole(parameter)
    put_aside: Tensor = _placement(module).weights_map[name]
    return put_aside


def whole_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters, one after the other in the order of their names; see :func:`whole`.

    Args:
        model: A model.
    """
    reshard_(model)
    owners = {name: owner for owner, module in model.named_modules() for name in _names(owner, module)}
    for name, _ in sorted(model.named_parameters()):
        yield name, whole_parameter(model.get_submodule(owners[name]), name.rpartition(".")[2])


def whole_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Weights and buffers of a model in shards as its files hold them, on the CPU; a collective operation.

    Args:
        model: A model.
        keep: Whether this process wants them; it gets an empty dictionary else.
    """
    parameters = {name: tensor.cpu() if keep else None for name, tensor in whole_parameters(model)}
    state = {name: parameters.get(name, tensor) for name, tensor in model.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None and not is_shard(tensor)}


def held(model: nn.Module) -> Iterator[Tensor]:
    """What this process holds of each parameter, in the order of their names.

    Args:
        model: A model.
    """
    reshard_(model)
    for _, parameter in sorted(model.named_parameters()):
        yield getattr(parameter, "_local_tensor", parameter)


def like_stored(tensor: Tensor, weight: Tensor) -> Tensor:
    """A whole tensor on a weight's device, and in shards as the weight is.

    Args:
        tensor: The same on every process.
        weight: A weight, or a view of one.
    """
    tensor = tensor.to(weight.device)
    if not is_shard(weight):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed: Any = weight
    return distribute_tensor(tensor, placed.device_mesh, placed.placements)


def device_of(module: nn.Module) -> torch.device:
    """The device on which a module with a weight runs.

    Args:
        module: The module.
    """
    try:
        weight: Tensor = module.get_parameter("weight")
    except AttributeError:  # around embeddings some of which PEFT trains: its weight is made anew at every look
        weight = next(module.parameters())
    return torch.device(_placement(module).execution_device) if weight.is_meta else weight.device


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within the ``with`` block, a module that is called by itself has whole weights.

    Args:
        module: A module without children, a norm, say.
    """
    shards = {name: parameter for name, parameter in module.named_parameters(recurse=False) if is_shard(parameter)}
    try:
        module._parameters.update({name: nn.Parameter(whole(shard), False) for name, shard in shards.items()})
        yield
    finally:
        module._parameters.update(shards)


def reshard_(model: nn.Module) -> None:
    """Drop whole weights that a pass has left behind, so that what is read and written are the shards.

    Args:
        model: A model that no pass, and no way back of one, is in the midst of.
    """
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if hasattr(module, "reshard"):
            module.reshard()


def forget_pass_(model: nn.Module) -> None:
    """Let the next pass begin anew after one that was cut off.

    Args:
        model: A model.
    """
    reset = getattr(model, "reset_iter_state", None)  # from PyTorch 2.13 on
    if reset is not None:
        reset()
    else:
        reshard_(model)


def _names(owner: str, module: nn.Module) -> list[str]:
    return [f"{owner}.{name}" if owner else name for name, _ in module.named_parameters(recurse=False)]


def _placement(module: nn.Module) -> Any:
    """The hook of accelerate that brings a module's weights to its device."""
    hook = module._hf_hook
    return next((one for one in getattr(hook, "hooks", ()) if hasattr(one, "weights_map")), hook)
