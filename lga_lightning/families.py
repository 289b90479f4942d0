"""The one place that knows model families: where the blocks are, what is in them, and which matrix is edited.

Everything is found by structure, so that families not named here work as well:

- the blocks are the first ``ModuleList`` as long as the text model's ``num_hidden_layers``;
- attention is the block's child whose class name says so; every other matrix of the block belongs to the MLP;
- the out-projection is the one matrix of the MLP that maps another width to the model's hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lga_lightning.errors import LayerError, ModelError

Scope = Literal["mlp", "mlp_out", "attention", "block"]
SCOPES: tuple[str, ...] = get_args(Scope)


@dataclass(frozen=True)
class Site:
    """A module of a block whose parameters enter the attribution.

    Attributes:
        name: Qualified name in the model.
        module: The module itself.
        bias: Whether its bias enters as well as its weight.
    """

    name: str
    module: nn.Module
    bias: bool


@dataclass(frozen=True)
class EditSite:
    """The out-projection of a block's MLP: y = W k + b, where an edit writes W <- W + B A.

    Attributes:
        name: Qualified name in the model.
        module: The linear module.
        layer: Index of its block.
        transposed: Whether the module stores W as [d_in, d_out] (GPT-2's ``Conv1D``) and not as [d_out, d_in].
        in_features: d_in, the width of a key.
        out_features: d_out, the width of a value.
    """

    name: str
    module: nn.Module
    layer: int
    transposed: bool
    in_features: int
    out_features: int

    def values(self, keys: Tensor) -> Tensor:
        """W k + b for keys [..., d_in], in the keys' dtype, which may be wider than the weights'."""
        if not self.weight.is_floating_point():
            values: Tensor = self.module(keys)
            return values
        bias = getattr(self.module, "bias", None)
        return functional.linear(keys, self.weight.to(keys.dtype), None if bias is None else bias.to(keys.dtype))

    @property
    def weight(self) -> Tensor:
        """The stored weight as a [d_out, d_in] view: writing to it writes to the model."""
        weight = self.module.get_parameter("weight")
        return weight.T if self.transposed else weight


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks of a causal language model, shallowest first.

    Raises:
        ModelError: If the model has no list of blocks as long as its config says.
    """
    return [module for _, module in _named_blocks(model)]


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the residual stream."""
    return int(model.config.get_text_config().hidden_size)


def check_layer(model: PreTrainedModel, layer: int) -> int:
    """Return a layer's index if the model has it.

    Raises:
        LayerError: If the index is negative, or not below the number of blocks.
    """
    count = len(_named_blocks(model))
    if not 0 <= layer < count:
        raise LayerError(
            f"Layer {layer} is out of range: {_describe(model)} has {count} blocks, numbered 0 to {count - 1}. "
            "Pass one of these, or 'golden'."
        )
    return layer


def edit_site(model: PreTrainedModel, layer: int) -> EditSite:
    """The out-projection of the MLP in one block (``down_proj``, ``c_proj``, ``fc2``, ...).

    Args:
        model: A causal language model.
        layer: Index of the block, from 0.

    Raises:
        LayerError: If the model has no such block.
        ModelError: If the block has no such matrix, or more than one (a mixture of experts, say).
    """
    name, block = _named_blocks(model)[check_layer(model, layer)]
    width = hidden_size(model)
    found = [
        EditSite(f"{name}.{child}", module, layer, isinstance(module, Conv1D), *features)
        for child, module in _mlp_matrices(block)
        if (features := matrix_shape(module))[1] == width and features[0] != width
    ]
    if len(found) != 1:
        names = ", ".join(site.name for site in found) or "none"
        raise ModelError(
            f"Expected exactly one matrix from the MLP to the residual stream (width {width}) in block {layer} of "
            f"{_describe(model)}, found {len(found)} ({names}). Its architecture, such as a mixture of experts, is not "
            "supported for editing. Supported are decoder-only models with one dense MLP a block (llama, qwen2, qwen3, "
            "mistral, gemma3, gpt2, gpt_neox, gptj, opt, phi3, ...)."
        )
    return found[0]


def attribution_sites(model: PreTrainedModel, scope: Scope = "mlp") -> list[list[Site]]:
    """The modules of every block whose gradients are compared, shallowest block first.

    Args:
        model: A causal language model.
        scope: ``mlp`` (all matrices of the MLP), ``mlp_out`` (its out-projection, the matrix that is edited),
            ``attention`` (all matrices of the attention) or ``block`` (every parameter: matrices, biases, norms).

    Raises:
        ValueError: If the scope is none of these.
        ModelError: If a block has no such module.
    """
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {list(SCOPES)}, got {scope!r}.")
    sites = []
    for layer, (name, block) in enumerate(_named_blocks(model)):
        if scope == "mlp_out":
            site = edit_site(model, layer)
            found = [Site(site.name, site.module, bias=False)]
        elif scope == "block":
            found = [
                Site(f"{name}.{child}", module, bias=getattr(module, "bias", None) is not None)
                for child, module in block.named_modules()
                if any(True for _ in module.parameters(recurse=False))
            ]
        else:
            matrices = _mlp_matrices(block) if scope == "mlp" else _attention_matrices(block)
            found = [Site(f"{name}.{child}", module, bias=False) for child, module in matrices]
        if scope != "block":
            edit_site(model, layer)  # an architecture that cannot be edited has no golden layer either
        sites.append(found)
    return sites


def is_matrix(module: nn.Module) -> bool:
    """Whether a module is a linear map (``Linear`` or GPT-2's ``Conv1D``, quantised ones included)."""
    return isinstance(module, nn.Linear | Conv1D)


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear map."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    raise TypeError(f"Expected a linear map, got a {type(module).__name__}.")


def normalised(norm: nn.Module, inputs: Tensor) -> Tensor:
    """The input of a norm after normalisation, before its weight and bias: [..., d] -> [..., d].

    As the module itself does it: transformers' RMS norms normalise in float32, whatever the model's dtype.

    Raises:
        ModelError: If the module is neither a ``LayerNorm`` nor an RMS norm.
    """
    if isinstance(norm, nn.LayerNorm):
        return functional.layer_norm(inputs, norm.normalized_shape, eps=norm.eps)
    inputs = inputs.float()
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if "RMSNorm" not in type(norm).__name__ or epsilon is None:
        raise ModelError(
            "Scope 'block' takes the gradient of every parameter of a block, and does not know how to take that of a "
            f"{type(norm).__name__}. Use the scope 'mlp', 'mlp_out' or 'attention'."
        )
    return inputs * torch.rsqrt(inputs.square().mean(-1, keepdim=True) + epsilon)


def _named_blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [(f"{name}.{index}", block) for index, block in enumerate(module)]
    raise ModelError(
        f"Found no transformer blocks in {_describe(model)}: no ModuleList has the {count} entries that its config "
        "announces. Supported are decoder-only causal language models of transformers."
    )


def _attention(block: nn.Module) -> list[str]:
    return [name for name, child in block.named_children() if "attention" in type(child).__name__.lower()]


def _matrices(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # an adapter in training (PEFT names its parts lora_A, lora_B) is not part of the block it sits in
    return ((name, module) for name, module in block.named_modules() if is_matrix(module) and "lora_" not in name)


def _attention_matrices(block: nn.Module) -> list[tuple[str, nn.Module]]:
    inside = _attention(block)
    return [(name, module) for name, module in _matrices(block) if name.split(".")[0] in inside]


def _mlp_matrices(block: nn.Module) -> list[tuple[str, nn.Module]]:
    inside = _attention(block)
    return [(name, module) for name, module in _matrices(block) if name.split(".")[0] not in inside]


def _describe(model: PreTrainedModel) -> str:
    return f"{type(model).__name__} (model type {model.config.model_type!r})"
