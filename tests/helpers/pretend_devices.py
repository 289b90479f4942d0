"""Two GPUs on a machine without any: tensors wear the name of a device, and what CUDA would refuse to mix is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from lga_lightning.models.architecture import blocks

NAME = "pretended_device"
# what says something about a tensor, or gives it back
PASSED_ON = {"__get__", "__set__", "register_hook", "requires_grad_", "detach_", "dim", "size", "stride", "numel"}
PASSED_ON |= {"is_floating_point", "is_contiguous", "__len__", "data_ptr"}
MIXES = {"copy_", "is_same_size", "allclose", "equal"}  # takes tensors of several devices, here or on CUDA
INDEXES = {"__getitem__", "__setitem__", "index_put_"}  # takes indices from main memory
DEVICE, IS_CUDA = Tensor.device.__get__, Tensor.is_cuda.__get__


class MixedDevicesError(RuntimeError):
    """Tensors of two devices in one operation."""


class PretendedDevices(TorchFunctionMode):
    """Within the ``with`` block, ``.device`` is what a tensor wears, results wear what their arguments do, and none may be mixed."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", str(func))
        if func == DEVICE:
            return _worn(args[0]) or DEVICE(args[0])
        if func == IS_CUDA:
            return False
        if name in PASSED_ON:
            result = func(*args, **kwargs)
            return _wear(result, _worn(args[0])) if isinstance(result, Tensor) else result
        if name == "to":
            return _moved(func, list(args), kwargs)
        if name == "cpu":
            return _wear(func(*args).clone(), torch.device("cpu"))
        if func is torch.autograd.grad:
            found, inputs = func(*args, **kwargs), args[1] if len(args) > 1 else kwargs["inputs"]
            for gradient, leaf in zip(found, [inputs] if isinstance(inputs, Tensor) else inputs, strict=True):
                _wear(gradient, _worn(leaf))
            return found
        wanted = kwargs.pop("device", None)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [device for place, tensor in enumerate(tensors) if (device := _counted(tensor, name, place))]
        if name not in MIXES and len(set(there)) > 1:
            raise MixedDevicesError(f"{name} of {[(tuple(tensor.shape), str(_worn(tensor))) for tensor in tensors]}")
        result = func(*args, **kwargs)
        if wanted is not None:
            return _wear(result, torch.device(wanted))
        if name == "copy_" or not there:
            all_wear = all(_worn(tensor) for tensor in tensors)
            first = _worn(tensors[0]) if tensors else torch.device("cpu")
            return _wear(result, first if all_wear or name == "copy_" else None)
        return _wear(result, there[0])


def spread(model: nn.Module, first: int) -> nn.Module:
    """Put a model's embeddings and some blocks on one pretended GPU and the rest on another, with hooks as accelerate's.

    Args:
        model: A tiny model.
        first: Number of blocks on the first.
    """
    one, other = torch.device("cuda:0"), torch.device("cuda:1")
    inner, embeddings, head = model.base_model, model.get_input_embeddings(), model.get_output_embeddings()
    for module in inner.children():
        if not isinstance(module, nn.ModuleList):
            _place(module, other if "norm" in type(module).__name__.lower() else one)
    for number, block in enumerate(blocks(model)):
        _place(block, one if number < first else other)
    _place(head, one if head.weight is embeddings.weight else other)
    forward = model.forward

    def with_logits_where_the_input_is(*args: Any, **kwargs: Any) -> Any:
        device = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)).device
        output = forward(*args, **kwargs)
        if getattr(output, "logits", None) is not None:
            output.logits = output.logits.to(device)
        return output

    model.__dict__["forward"] = with_logits_where_the_input_is
    return model


def _place(module: nn.Module, device: torch.device) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        _wear(tensor, device)
    forward = module.forward

    def here(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    def with_inputs_here(*args: Any, **kwargs: Any) -> Any:
        return forward(*tree_map(here, args), **tree_map(here, kwargs))

    module.__dict__["forward"] = with_inputs_here


def _worn(tensor: Tensor) -> torch.device | None:
    return getattr(tensor, NAME, None)


def _wear(result: Any, device: torch.device | None) -> Any:
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            setattr(leaf, NAME, device)
    return result


def _counted(tensor: Tensor, name: str, place: int) -> torch.device | None:
    """The device of an argument, where it has a say: a number in main memory goes with all, an index there with what it indexes."""
    device = _worn(tensor)
    if device is None or (device.type == "cpu" and (tensor.dim() == 0 or (name in INDEXES and place > 0))):
        return None
    return device


def _moved(func: Callable[..., Tensor], args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    before, device = _worn(args[0]), kwargs.pop("device", None)
    for place, wanted in enumerate(args[1:], 1):
        if isinstance(wanted, torch.device | str):
            device, args[place] = wanted, "cpu"
        elif isinstance(wanted, Tensor):
            device = _worn(wanted)
    device = None if device is None else torch.device(device)
    result = func(*args, **kwargs)
    if result is args[0] and device not in (None, before):
        result = args[0].view_as(args[0]) if isinstance(args[0], nn.Parameter) else args[0].clone()
    return _wear(result, device or before)
