"""Where the parts of a model family are: the rules that hold for most families, and the place for those of an odd one.

The rules name no family. They ask how the modules are made, so that families that nobody has tried work as well. A family
that they do not fit gets a subclass of :class:`Structure` of its own, registered under its ``model_type``.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lga_lightning.exceptions import ModelError
from lga_lightning.models.experts import ExpertMatrix, is_fused

NORMS_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_norm", "post_norm2")
RESIDUAL_SCALES = ("residual_multiplier", "residual_scale", "layer_scalar", "down_multiplier")
GATES = ("shared_expert_gate",)


class Structure:
    """Names of the parts that are scored and edited; a subclass overrides the methods whose rule does not hold.

    Every method returns names as ``named_modules`` has them: of :meth:`blocks` in the whole model, of all others within a
    block (``mlp.down_proj``). Whoever asks checks that the modules are there and are what they should be.
    """

    def blocks(self, model: PreTrainedModel) -> list[str]:
        """Names of the transformer blocks, shallowest first: the first ``ModuleList`` with ``num_hidden_layers`` entries.

        Of a model that also sees or hears, the one within its text decoder.

        Args:
            model: A causal language model.
        """
        count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        lists = {module: name for name, module in _lists_of(model, count)}
        within = [module for _, module in _lists_of(model.get_decoder(), count)]
        found = next(iter([*within, *lists]), None)
        return [] if found is None else [f"{lists[found]}.{index}" for index in range(len(found))]

    def attention(self, block: nn.Module) -> list[str]:
        """Names of the block's children that are attention: those whose class name says so.

        What mixes tokens in its place (a state space, linear attention, a short convolution) is counted as attention; it is known by
        its convolution.

        Args:
            block: A transformer block.
        """
        return [
            name
            for name, child in block.named_children()
            if "attention" in type(child).__name__.lower()
            or any(isinstance(part, nn.Conv1d) for part in child.modules())
        ]

    def attention_matrices(self, block: nn.Module) -> list[str]:
        """Names of the matrices within attention.

        Args:
            block: A transformer block.
        """
        attention = self.attention(block)
        return [name for name in matrix_names(block) if _is_within(name, attention)]

    def mlp_matrices(self, block: nn.Module) -> list[str]:
        """Names of the matrices of the MLP: those within the child whose class name says so (``LlamaMLP``, ``RwkvFeedForward``).

        In a block without such a child, as OPT's, all that are not within attention.

        Args:
            block: A transformer block.
        """
        attention = self.attention(block)
        names = [name for name in matrix_names(block) if not _is_within(name, attention)]
        mlps = [name for name, child in block.named_children() if _is_mlp(child)]
        return [name for name in names if _is_within(name, mlps)] or names

    def out_projections(self, block: nn.Module, width: int) -> list[str]:
        """Names of the matrices that lead from the MLP to the residual stream: those that map another width to its width.

        An edit needs exactly one. In a mixture of experts it is that of the shared expert, which sees every token; without one, the fused
        experts, whose matrices then are one, side by side (:mod:`~lga_lightning.models.experts`).

        Args:
            block: A transformer block.
            width: The width of the residual stream.
        """
        modules = dict(block.named_modules())
        matrices = [(name, modules[name]) for name in self.mlp_matrices(block) if is_matrix(modules.get(name))]
        found = [name for name, module in matrices if (shape := matrix_shape(module))[1] == width != shape[0]]
        return found or [name for name, module in modules.items() if is_fused(module)]

    def norm_after_mlp(self, block: nn.Module) -> str | None:
        """Name of the norm between the out-projection and the residual stream (Gemma 2 and 3, OLMo 2); most have none.

        Its input is what the out-projection gives, as it is, and what experts add to that (AFMoE).

        Args:
            block: A transformer block.
        """
        children = block.named_children()
        return next((n for n, child in children if n in NORMS_AFTER_MLP and not isinstance(child, nn.Identity)), None)

    def residual_scale(self, block: nn.Module) -> float:
        """What the MLP's output is multiplied by on its way into the residual stream (Granite, MiniCPM 3, Falcon-H1); 1 in most families.

        Args:
            block: A transformer block.
        """
        parts = (block, *block.children())
        return prod(float(getattr(part, name)) for part in parts for name in RESIDUAL_SCALES if hasattr(part, name))

    def gate(self, block: nn.Module) -> str | None:
        """Name of the linear map to one number, whose sigmoid a shared expert's output is multiplied by (Qwen's); most have none.

        Args:
            block: A transformer block.
        """
        return next((name for name, _ in block.named_modules() if name.rpartition(".")[2] in GATES), None)


class RoutedExperts(Structure):
    """The general structure, but for mixtures of experts with a shared one: the routed experts are scored and edited in its place."""

    def out_projections(self, block: nn.Module, width: int) -> list[str]:
        """The fused experts of a block that has some; see :class:`Structure`."""
        fused = [name for name, module in block.named_modules() if is_fused(module)]
        return fused or super().out_projections(block, width)


_REGISTERED: dict[str, Structure] = {}


def register_structure(model_type: str, structure: Structure) -> None:
    """Use a structure for all models of a type; if one is registered already, this one takes its place.

    Args:
        model_type: What the models' ``config.model_type`` says.
        structure: Where their parts are.

    Raises:
        TypeError: If the structure is no instance of :class:`Structure`.
    """
    if not isinstance(structure, Structure):
        raise TypeError(
            f"`structure` must be an instance of Structure, got {structure!r}. Make one of a subclass: "
            "register_structure('odd', OddStructure())."
        )
    _REGISTERED[model_type] = structure


def structure_of(model: PreTrainedModel) -> Structure:
    """The structure registered for a model's type, else the general one."""
    return _REGISTERED.get(model.config.model_type) or Structure()


def _lists_of(module: nn.Module, count: int | None, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    """The ModuleLists of so many entries, in the order of ``named_modules``; none within another, so that no block is looked through."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            yield f"{prefix}{name}", child
        else:
            yield from _lists_of(child, count, f"{prefix}{name}.")


def is_matrix(module: object) -> bool:
    """Whether a module is a linear map (``Linear`` or GPT-2's ``Conv1D``, quantised ones included; experts side by side)."""
    return isinstance(module, nn.Linear | Conv1D | ExpertMatrix)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear map stores its weight as [d_in, d_out] and not as [d_out, d_in]."""
    return isinstance(module, Conv1D)


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear map.

    Raises:
        TypeError: If the module is none.
    """
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, nn.Linear | ExpertMatrix):
        return module.in_features, module.out_features
    raise TypeError(f"Expected a linear map, got a {type(module).__name__}.")


def is_adapter(name: str) -> bool:
    """Whether a module is a part of an adapter in training, which PEFT names lora_A, lora_B, ..., and not of the module it sits in.

    Args:
        name: Its name.
    """
    return "lora_" in name


def matrix_names(module: nn.Module) -> list[str]:
    """Names of the linear maps within a module, in the order of ``named_modules``; those of an adapter in training are left out."""
    return [name for name, child in module.named_modules() if is_matrix(child) and not is_adapter(name)]


def normalised(norm: nn.Module, inputs: Tensor) -> Tensor:
    """The input of a norm after normalisation, before its weight and bias: [..., d] -> [..., d].

    As the module itself does it: transformers' RMS norms normalise in float32, whatever the model's dtype.

    Raises:
        ModelError: If the module is neither a ``LayerNorm`` nor an RMS norm.
    """
    check_norm(norm)
    if isinstance(norm, nn.LayerNorm):
        return functional.layer_norm(inputs, norm.normalized_shape, eps=norm.eps)
    inputs = inputs.float()
    return inputs * torch.rsqrt(inputs.square().mean(-1, keepdim=True) + _epsilon(norm))


def check_norm(module: nn.Module) -> None:
    """Refuse a module with parameters that is no norm, as a convolution, or a mixture of experts that holds its weights itself.

    Args:
        module: The module.

    Raises:
        ModelError: If it is neither a ``LayerNorm`` nor an RMS norm.
    """
    if isinstance(module, nn.LayerNorm) or ("RMSNorm" in type(module).__name__ and _epsilon(module) is not None):
        return
    raise ModelError(
        "Scope 'block' takes the gradient of every parameter of a block, and does not know how to take that of a "
        f"{type(module).__name__}. Use the scope 'mlp', 'mlp_out' or 'attention'."
    )


def _epsilon(norm: nn.Module) -> Any:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _is_mlp(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return "mlp" in name or "feedforward" in name


def _is_within(name: str, parts: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in parts)
