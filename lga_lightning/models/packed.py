"""Weights that are kept in fewer bits than they compute with (torchao, bitsandbytes, FP8): told apart, and read as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lga_lightning.models.storage import whole_parameter
from lga_lightning.models.structure import is_matrix, is_transposed, matrix_shape
from lga_lightning.utils.per_model import PerModel

BITSANDBYTES = ("Params4bit", "Int8Params")
_ADDED: PerModel[list[Callable[[], Tensor]]] = PerModel()  # by module


def is_packed(weight: Tensor) -> bool:
    """Whether a weight's numbers are not those that it stands for, so that nothing can be added to them."""
    return weight.dtype.itemsize < 2 or type(weight).dequantize is not Tensor.dequantize


def packing(weight: Tensor) -> str:
    """What a weight is kept in, in a word: ``Int8Tensor``, ``Params4bit``, or its dtype."""
    name = type(weight).__name__
    return str(weight.dtype) if name in ("Tensor", "Parameter") else name


def packed_modules(model: nn.Module) -> list[nn.Module]:
    """The linear maps of a model whose weights are packed."""
    weights = ((module, module._parameters.get("weight")) for module in model.modules() if is_matrix(module))
    return [module for module, weight in weights if weight is not None and is_packed(weight)]


def stored(weight: Tensor) -> list[Tensor]:
    """The plain tensors that a weight is kept in: itself, or of a packed one its numbers and their scales."""
    if not is_packed(weight):
        return [weight]
    if is_traceable_wrapper_subclass(weight):
        return [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]
    scales = getattr(getattr(weight, "quant_state", None), "absmax", None), getattr(weight, "SCB", None)
    return [weight, *(scale for scale in scales if scale is not None)]


def unpacked(module: nn.Module) -> Tensor:
    """The weight of a linear map as plain numbers, in the module's layout.

    The weight itself, or a copy of one that is packed, in shards or put aside.

    Args:
        module: A linear map. One of a kind that is not known is asked what it makes of unit vectors.
    """
    weight = module.get_parameter("weight")
    if not is_packed(weight):
        return whole_parameter(module, "weight")
    with torch.no_grad():
        if type(weight).dequantize is not Tensor.dequantize:
            return weight.dequantize()
        if type(weight).__name__ in BITSANDBYTES:
            from peft.utils.integrations import dequantize_module_weight

            return dequantize_module_weight(module).detach()
        bias = getattr(module, "bias", None)
        outputs: Tensor = module.forward(torch.eye(matrix_shape(module)[0], device=weight.device))
        outputs = outputs if bias is None else outputs - bias
        return outputs if is_transposed(module) else outputs.T


def read_weight(module: nn.Module) -> Tensor:
    """As :func:`unpacked`, with what is added for the time being to a weight that cannot be written."""
    weight = unpacked(module)
    for change in _ADDED.get(module, ()):
        added = change().to(weight.device)
        weight = weight + (added.T if is_transposed(module) else added)
    return weight


@contextmanager
def reads_with(module: nn.Module, change: Callable[[], Tensor]) -> Iterator[None]:
    """Within the ``with`` block, a weight is read as if something were added to it.

    Args:
        module: The linear map, to whose outputs somebody else adds what the change makes of its inputs.
        change: Gives what is added, [d_out, d_in].
    """
    changes = _ADDED.setdefault(module, [])
    changes.append(change)
    try:
        yield
    finally:
        changes.remove(change)


@contextmanager
def gradients_through_packed(model: nn.Module) -> Iterator[None]:
    """Within the ``with`` block, gradients flow through packed weights, each of which is unpacked when it is its turn.

    By itself, torchao keeps every weight unpacked from the forward pass to the backward pass, and some kernels have no backward pass.

    Args:
        model: A model none of whose weights asks for a gradient.
    """

    def forward(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not (args and torch.is_grad_enabled() and args[0].requires_grad):
            return None
        through: Tensor = _ThroughPacked.apply(args[0], output.detach(), module)  # type: ignore[no-untyped-call]
        return through

    with ExitStack() as stack:
        # before other hooks, whose changes of the output have gradients of their own
        for module in packed_modules(model):
            stack.enter_context(module.register_forward_hook(forward, prepend=True))
        yield


class _ThroughPacked(torch.autograd.Function):
    """What a linear map gives, with the gradient of W k, of which nothing but the module is kept."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, output: Tensor, module: nn.Module) -> Tensor:
        ctx.module, ctx.dtype = module, inputs.dtype
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        weight = unpacked(ctx.module).to(gradient.dtype)
        return (gradient @ (weight.T if is_transposed(ctx.module) else weight)).to(ctx.dtype), None, None
