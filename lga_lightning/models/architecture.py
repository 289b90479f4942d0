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

from lga_lightning.exceptions import LayerError, ModelError

Scope = Literal["mlp", "mlp_out", "attention", "block", "value"]
SCOPES: tuple[str, ...] = get_args(Scope)
NORMS_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")


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
        norm: The norm between the module and the residual stream (Gemma 2 and 3, OLMo 2), None in most families.
    """

    name: str
    module: nn.Module
    layer: int
    transposed: bool
    in_features: int
    out_features: int
    norm: nn.Module | None = None

    def before_norm(self, outputs: Tensor, change: Tensor) -> Tensor:
        """What to change in the module's outputs so that the residual stream changes by so much.

        With an RMS norm behind the module this holds to first order: the output's size, by which it divides, is taken as
        it is.

        Args:
            outputs: [..., d_out] the module's outputs.
            change: [..., d_out] the wanted change of the block's output.
        """
        if self.norm is None:
            return change
        ones = torch.ones_like(outputs)
        scale = self.norm(ones).to(outputs) / outputs.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
        return change * scale / (scale.square() + 1e-6 * scale.square().mean(-1, keepdim=True))

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


def signature(model: PreTrainedModel) -> tuple[str, int, int]:
    """Model type, number of blocks and width of a key: what tells a model apart, whatever it is called."""
    return model.config.model_type, len(_named_blocks(model)), edit_site(model, 0).in_features


def attention(model: PreTrainedModel, layer: int) -> nn.Module:
    """The attention module of a block.

    Raises:
        LayerError: If the model has no such block.
        ModelError: If the block has no attention module, or more than one.
    """
    block = blocks(model)[check_layer(model, layer)]
    found = _attention(block)
    if len(found) != 1:
        raise ModelError(
            f"Expected exactly one attention module in block {layer} of {_describe(model)}, found {found or 'none'}. "
            "PMET, which optimises its output too, cannot edit this model (use MEMIT), nor can causal tracing look into it."
        )
    return block.get_submodule(found[0])


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the residual stream."""
    return int(model.config.get_text_config().hidden_size)


def longest_text(model: PreTrainedModel, wanted: int) -> int:
    """So many tokens, or as many as the model has positions for, if those are fewer."""
    return min(wanted, getattr(model.config.get_text_config(), "max_position_embeddings", None) or wanted)


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
    norm = next((child for key, child in block.named_children() if key in NORMS_AFTER_MLP), None)
    found = [
        EditSite(f"{name}.{child}", module, layer, isinstance(module, Conv1D), *features, norm=norm)
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
            ``attention`` (all matrices of the attention), ``block`` (every parameter: matrices, biases, norms) or ``value``
            (the out-projection again, of whose output the gradient is meant).

    Raises:
        ValueError: If the scope is none of these.
        ModelError: If a block has no such module.
    """
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {list(SCOPES)}, got {scope!r}.")
    sites = []
    for layer, (name, block) in enumerate(_named_blocks(model)):
        if scope in ("mlp_out", "value"):
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


def named_site(model: PreTrainedModel, name: str) -> EditSite:
    """Any linear module as a site to edit: a matrix of the attention, another one of the MLP, the output embedding.

    Args:
        model: A causal language model.
        name: Qualified name of the module, as ``model.named_modules()`` has it.

    Returns:
        The site. Its ``layer`` is -1 if the module is in no block. Its ``norm`` is not looked for: that is :func:`edit_site`'s.

    Raises:
        ModelError: If the model has no linear module of that name, or its weight is the embeddings' too.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if module is None or not is_matrix(module):
        found = "no such module" if module is None else f"a {type(module).__name__}"
        raise ModelError(
            f"Expected a linear module {name!r} in {_describe(model)}, found {found}. The edit was made for another model, or "
            "the name is misspelt; `model.named_modules()` lists the names."
        )
    layer = next((i for i, (block, _) in enumerate(_named_blocks(model)) if name.startswith(f"{block}.")), -1)
    if layer < 0 and getattr(model.get_input_embeddings(), "weight", None) is module.weight:
        raise ModelError(
            f"The weight of {name!r} in {_describe(model)} is that of the input embeddings too, which an edit would change with "
            "it. Edit another module, or untie the two (`tie_word_embeddings`)."
        )
    return EditSite(name, module, layer, isinstance(module, Conv1D), *matrix_shape(module))
