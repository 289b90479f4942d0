"""Gradients that are materialised, one request at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lga_lightning.models.architecture import blocks

EXACT = 1e-9


OUT = (
    *("mlp.down_proj", "mlp.c_proj", "mlp.fc_out", "mlp.dense_4h_to_h", "fc2", "mlp.Wo", "mlp_block.down_proj"),
    *(
        "feed_forward.w2",
        "feed_forward.down_proj",
        "ffn.down_proj",
        "ffn.2",
        "shared_expert.down_proj",
        "shared_experts.down_proj",
    ),
    "experts.down_proj",  # of three dimensions
)
"""Ends of the out-projections' names, of every family that is tried."""


def block_parameters(block: torch.nn.Module, scope: str) -> list[Tensor]:
    """The parameters of a scope by name alone, independent of lga_lightning.models.architecture."""
    if scope == "block":
        return list(block.parameters())
    inner = ("mlp.", "fc1", "fc2")
    chosen = []
    for name, parameter in block.named_parameters():
        is_matrix = parameter.ndim == 2 or (scope == "mlp_out" and parameter.ndim == 3)
        is_mlp = name.startswith(inner)
        if (
            is_matrix
            and {"mlp": is_mlp, "mlp_out": name.removesuffix(".weight").endswith(OUT), "attention": not is_mlp}[scope]
        ):
            chosen.append(parameter)
    # of experts the shared one alone, where there is one
    return [parameter for parameter in chosen if parameter.ndim == 2] or chosen


def out_projection(block: torch.nn.Module) -> torch.nn.Module:
    (found,) = (module for name, module in block.named_modules() if name.endswith(OUT))
    return found


def reference(model: PreTrainedModel, tokenizer, request, scope: str, whole: bool = False) -> Tensor:
    """[4, L] dot, cosine and norms, from materialised gradients of one request at a time; of the loss over the whole text."""
    gradients = []
    moves = [
        torch.zeros(model.config.get_text_config().hidden_size, dtype=model.dtype, requires_grad=True)
        for _ in blocks(model)
    ]
    spans = tokenizer(request.prompt, return_offsets_mapping=True)["offset_mapping"]
    end = request.prompt.index(request.subject) + len(request.subject)
    subject = max(i for i, (start, stop) in enumerate(spans) if start < end <= stop)  # bytes of one letter share a span

    def moving(move: Tensor):
        place = torch.tensor([subject])  # opt's MLP sees [tokens, width]
        return lambda module, args, output: output.index_add(-2, place, move.expand(*output.shape[:-2], 1, -1))

    handles = []
    if scope == "value":
        pairs = zip(blocks(model), moves, strict=True)
        handles = [out_projection(block).register_forward_hook(moving(move)) for block, move in pairs]
    model.requires_grad_(True)
    for answer in (request.target_old, request.target_new):
        prompt = tokenizer(request.prompt)["input_ids"]
        target = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt + target])
        logits = model(ids).logits[0, :-1]
        asked = slice(0 if whole else len(prompt) - 1, None)
        loss = torch.nn.functional.cross_entropy(logits[asked], ids[0, 1:][asked])
        per_block = []
        for block, move in zip(blocks(model), moves, strict=True):
            leaves = [move] if scope == "value" else block_parameters(block, scope)
            grads = torch.autograd.grad(loss, leaves, retain_graph=True)
            per_block.append(torch.cat([g.flatten() for g in grads]))
        gradients.append(per_block)
    model.requires_grad_(False)
    for handle in handles:
        handle.remove()
    rows = [
        [old @ new, old @ new / (old.norm() * new.norm()).clamp_min(1e-300), old.norm(), new.norm()]
        for old, new in zip(*gradients, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64).T


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest error, relative to the largest entry of each request and column."""
    return ((value - expected).abs().amax(-1) / expected.abs().amax(-1)).max().item()
