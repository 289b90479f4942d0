"""What the package asks of a model: its blocks, the parts of a block, and the matrix that is edited.

Where they are is said by the model's :class:`~lga_lightning.models.structure.Structure`; here its answers are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from lga_lightning.exceptions import LayerError, ModelError
from lga_lightning.models.experts import ExpertMatrix, is_fused
from lga_lightning.models.reading import check_read_from_the_left
from lga_lightning.models.sites import EditSite, Site
from lga_lightning.models.structure import (
    check_norm,
    is_adapter,
    is_matrix,
    is_transposed,
    matrix_names,
    matrix_shape,
    structure_of,
)

Scope = Literal["mlp", "mlp_out", "attention", "block", "value"]
SCOPES: tuple[str, ...] = get_args(Scope)
OUT_PROJECTION = "out_projection"
WAY_OUT = "For a family that is built in another way, register a structure (docs/extending/structure.md)."


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks of a causal language model, shallowest first.

    Raises:
        ModelError: If the model's structure finds no blocks.
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
    _, block = _named_block(model, layer)
    found = _named_parts(model, "attention", block, structure_of(model).attention(block))
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise ModelError(
            f"Expected exactly one attention module in block {layer} of {_describe(model)}, found {len(found)} ({names}). "
            "PMET, which optimises its output too, cannot edit this model (use MEMIT), nor can causal tracing look into it. "
            f"{WAY_OUT}"
        )
    return found[0][1]


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the residual stream."""
    return int(model.config.get_text_config().hidden_size)


def longest_text(model: PreTrainedModel, wanted: int) -> int:
    """The number of tokens wanted, or of the model's positions if it has fewer.

    Args:
        model: A causal language model.
        wanted: Number of tokens.
    """
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")  # MPT has the latter
    return min(wanted, next((most for name in names if (most := getattr(config, name, None))), wanted))


def check_layer(model: PreTrainedModel, layer: int) -> int:
    """Return a layer's index if the model has it.

    Raises:
        LayerError: If the index is negative, or not below the number of blocks.
    """
    _named_block(model, layer)
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
    return _edit_site(model, layer, *_named_block(model, layer))


def matrices_to_edit(
    model: PreTrainedModel, layer: int, modules: str | Sequence[str] = OUT_PROJECTION
) -> list[EditSite]:
    """Matrices of one block, in the block's order.

    Args:
        model: A causal language model.
        layer: Index of the block, from 0.
        modules: ``out_projection`` for that of the MLP, ``all`` for every matrix of MLP and attention, or names within the block, or
            their ends: ``mlp.up_proj``, ``up_proj``.

    Raises:
        LayerError: If the model has no such block.
        ModelError: If the block has no matrix of one of the names.
    """
    if modules == OUT_PROJECTION:
        return [edit_site(model, layer)]
    name, block = _named_block(model, layer)
    names = matrix_names(block)
    if modules != "all":
        ends = [modules] if isinstance(modules, str) else list(modules)
        found = {end: [child for child in names if f".{child}".endswith(f".{end}")] for end in ends}
        if missing := [end for end, children in found.items() if not children]:
            raise ModelError(
                f"Block {layer} of {_describe(model)} has no matrix called {missing[0]!r}. It has {', '.join(names)}. Give one of "
                f"these or its end, {OUT_PROJECTION!r} or 'all'."
            )
        chosen = {child for children in found.values() for child in children}
        names = [child for child in names if child in chosen]
    return [named_site(model, f"{name}.{child}") for child in names]


def scored_sites(model: PreTrainedModel, scope: Scope = "mlp") -> list[list[Site]]:
    """The modules of every block whose gradients are compared, shallowest block first.

    Args:
        model: A causal language model.
        scope: ``mlp`` (all matrices of the MLP), ``mlp_out`` (its out-projection, the matrix that is edited),
            ``attention`` (all matrices of the attention), ``block`` (every parameter: matrices, biases, norms) or ``value``
            (the out-projection again, of whose output the gradient is meant).

    Raises:
        ValueError: If the scope is none of these.
        ModelError: If a block has no such module, or under ``block`` a parameter of what is neither a linear map nor a norm.
    """
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {list(SCOPES)}, got {scope!r}.")
    sites = []
    structure = structure_of(model)
    for layer, (name, block) in enumerate(_named_blocks(model)):
        if scope == "block":
            parts = [
                (n, part)
                for n, part in block.named_modules()
                if not is_adapter(n) and any(True for _ in part.parameters(recurse=False))
            ]
            for _, part in parts:
                if not is_matrix(part):
                    check_norm(part)
            found = [Site(f"{name}.{n}", part, bias=getattr(part, "bias", None) is not None) for n, part in parts]
        else:
            site = _edit_site(
                model, layer, name, block
            )  # an architecture that cannot be edited has no golden layer either
            if isinstance(site.module, ExpertMatrix) and scope == "mlp":
                raise ModelError(
                    f"Scope 'mlp' takes all matrices of an MLP, and of the fused experts in {_describe(model)} the out-projections alone are "
                    "known. Use the scope 'mlp_out' or 'value'."
                )
            if scope == "mlp":
                matrices = _named_matrices(model, "mlp_matrices", block, structure.mlp_matrices(block))
            elif scope == "attention":
                matrices = _named_matrices(model, "attention_matrices", block, structure.attention_matrices(block))
            else:
                matrices = [(site.name.removeprefix(f"{name}."), site.module)]
            found = [Site(f"{name}.{child}", module, bias=False) for child, module in matrices]
        sites.append(found)
    return sites


def _named_blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    found = _named_parts(model, "blocks", model, structure_of(model).blocks(model))
    if not found:
        count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        raise ModelError(
            f"{type(structure_of(model)).__name__} found no transformer blocks in {_describe(model)}. By default they are "
            f"the ModuleList that has the {count} entries that the config announces, as in the decoder-only causal "
            f"language models of transformers. {WAY_OUT}"
        )
    check_read_from_the_left(model, found[0][0])
    return found


def _named_block(model: PreTrainedModel, layer: int) -> tuple[str, nn.Module]:
    found = _named_blocks(model)
    if not 0 <= layer < len(found):
        raise LayerError(
            f"Layer {layer} is out of range: {_describe(model)} has {len(found)} blocks, numbered 0 to {len(found) - 1}. "
            "Pass one of these, or 'golden'."
        )
    return found[layer]


def _edit_site(model: PreTrainedModel, layer: int, name: str, block: nn.Module) -> EditSite:
    width, structure = hidden_size(model), structure_of(model)
    if (streams := getattr(model.config.get_text_config(), "altup_num_inputs", 1)) > 1:
        raise ModelError(
            f"The blocks of {_describe(model)} carry {streams} residual streams side by side (AltUp), of which an MLP writes into all, "
            "and edits and their forecasts know one stream alone. Use a model with one: Gemma 3 or Gemma 4, say."
        )
    found = _named_matrices(model, "out_projections", block, structure.out_projections(block, width))
    packed = getattr(model.config, "quantization_config", None)
    if packed and not found:
        method = packed.get("quant_method") if isinstance(packed, dict) else packed.quant_method
        raise ModelError(
            f"No linear map was found in the MLP of block {layer} of {_describe(model)}. Its weights are quantised "
            f"({getattr(method, 'value', method)}), and those of other modules than `nn.Linear` cannot be read. Take weights of torchao or bitsandbytes, or "
            "plain ones, which can be quantised as they are loaded (--model.quantization int8; docs/scaling.md)."
        )
    if len(found) != 1:
        _named_matrices(
            model, "mlp_matrices", block, structure.mlp_matrices(block)
        )  # nonsense there is the better reason
        names = ", ".join(f"{name}.{child}" for child, _ in found) or "none"
        raise ModelError(
            f"Expected exactly one matrix from the MLP to the residual stream (width {width}) in block {layer} of "
            f"{_describe(model)}, found {len(found)} ({names}). Its architecture is not "
            "supported for editing. Supported are decoder-only models with one dense MLP a block (llama, qwen2, qwen3, "
            "mistral, gemma3, gpt2, gpt_neox, gptj, opt, phi3, ...), or with experts that transformers fuses into one parameter "
            f"(qwen3_moe, mixtral, gpt_oss, ...; docs/families.md). {WAY_OUT}"
        )
    child, module = found[0]
    d_in, d_out = matrix_shape(module)
    if d_out != width:
        raise _nonsense(
            model,
            "out_projections",
            f"a matrix that gives vectors of the residual stream's width, {width}",
            (child, d_out),
        )
    behind = structure.norm_after_mlp(block)
    norm = None if behind is None else _named_parts(model, "norm_after_mlp", block, [behind])[0][1]
    scale = structure.residual_scale(block)
    gating = None if isinstance(module, ExpertMatrix) else structure.gate(block)
    gate = None if gating is None else _named_matrices(model, "gate", block, [gating])[0][1]
    normed_twice = f"{behind}_1" in block._modules
    return EditSite(
        f"{name}.{child}", module, layer, is_transposed(module), d_in, d_out, norm, scale, gate, normed_twice
    )


def _named_parts(
    model: PreTrainedModel, method: str, of: nn.Module, names: Sequence[str]
) -> list[tuple[str, nn.Module]]:
    """The modules that a method of the model's structure has named, with their names in the module ``of``."""
    try:
        return [(name, _submodule(of, name)) for name in names]
    except (KeyError, AttributeError, TypeError) as error:  # no such module, no name at all
        raise _nonsense(model, method, f"names of modules within {type(of).__name__}", names) from error


def _submodule(module: nn.Module, name: str) -> nn.Module:
    # as get_submodule, ten times as fast: the blocks are looked up in every pass
    for part in name.split("."):
        if is_fused(module) and part.isdigit():  # ...experts.5.down_proj, as checkpoints name it
            return ExpertMatrix(module, int(part))
        module = module._modules[part]  # type: ignore[assignment]
    return ExpertMatrix(module) if is_fused(module) else module


def _named_matrices(
    model: PreTrainedModel, method: str, block: nn.Module, names: Sequence[str]
) -> list[tuple[str, nn.Module]]:
    found = _named_parts(model, method, block, names)
    for name, module in found:
        if not is_matrix(module):
            raise _nonsense(model, method, "names of linear maps", (name, type(module).__name__))
    return found


def _nonsense(model: PreTrainedModel, method: str, expected: str, got: object) -> ModelError:
    structure = type(structure_of(model)).__name__
    return ModelError(
        f"{structure}.{method} must return {expected}, got {got!r}, for {_describe(model)}. Correct the structure that is "
        "registered for this model type."
    )


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
        module: nn.Module | None = _submodule(model, name)
    except KeyError:
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
    return EditSite(name, module, layer, is_transposed(module), *matrix_shape(module))
