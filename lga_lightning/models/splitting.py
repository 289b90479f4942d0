"""Matrices that are split among processes (tensor parallelism), with all that goes in and comes out whole.

Each process has some of a matrix's outputs to compute, y_p = W_p x + b_p, from the whole input, and gets the others' from them. So keys, values and
their gradients are in every process what they are without a split, whatever hook looks at them. The plans of transformers leave keys in parts
from one matrix to the next, and need heads that can be dealt out evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from lga_lightning.exceptions import ModelError
from lga_lightning.models.structure import is_matrix, is_transposed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

MOST_UNSPLIT = 0.1
"""Share of a model's weights that may stay whole in every process."""


def split_(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Split the matrices and embeddings of a model by their outputs; an embedding that is tied to the output embedding by its tokens, as that is.

    What else has weights stays whole in every process: norms and convolutions.

    Args:
        model: A causal language model.
        mesh: The processes, in one dimension.

    Raises:
        ModelError: If more than a tenth of its weights would stay whole, those of fused experts, say.
    """
    matrices = [module for module in model.modules() if is_matrix(module)]
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    _check_share(model, matrices + embeddings)
    split: dict[Tensor, nn.Parameter] = {}
    for module in matrices:
        _split_module_(module, mesh, split, _outputs)
    for embedding in embeddings:
        _split_module_(embedding, mesh, split, _rows if embedding.weight in split else _outputs)
        embedding.padding_idx = None  # it concerns gradients of weights alone


def is_split_otherwise(model: nn.Module) -> bool:
    """Whether the matrices of a model are split by a plan of transformers' or PyTorch's, so that hooks would see parts.

    Args:
        model: A model.
    """
    by_transformers = (getattr(model, "_tp_size", None) or 1) > 1
    return by_transformers or any(hasattr(module, "_distribute_module_applied") for module in model.modules())


def _check_share(model: PreTrainedModel, modules: list[nn.Module]) -> None:
    split = {parameter for module in modules for parameter in module.parameters(recurse=False)}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    unsplit = {name: sizes[name] for name, parameter in model.named_parameters() if parameter not in split}
    share = sum(unsplit.values()) / sum(sizes.values())
    if share > MOST_UNSPLIT:
        raise ModelError(
            f"Tensor parallelism splits plain matrices and embeddings, and {share:.0%} of the weights of {type(model).__name__} are others "
            f"({max(unsplit, key=unsplit.__getitem__)}, ...), which each process would hold whole. Put the model in shards: "
            "--trainer.strategy.tensor_parallel_size 1, and --trainer.strategy.data_parallel_size for all processes."
        )


def _split_module_(
    module: nn.Module, mesh: DeviceMesh, split: dict[Tensor, nn.Parameter], run: Callable[..., Tensor]
) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    for name, parameter in module.named_parameters(recurse=False):
        if parameter not in split:
            part = distribute_tensor(parameter.detach(), mesh, [Shard(0 if isinstance(module, nn.Linear) else -1)])
            split[parameter] = nn.Parameter(part, requires_grad=False)
        module._parameters[name] = split[parameter]
    module.__dict__["forward"] = partial(run, module, mesh)  # within the module's hooks, which see what is whole


def _outputs(module: nn.Module, mesh: DeviceMesh, *args: Any, **kwargs: Any) -> Tensor:
    """What a module gives whose outputs are split: each process's part, side by side."""
    group = mesh.get_group()
    args = tuple(_Copied.apply(value, group) if isinstance(value, Tensor) else value for value in args)
    weight = module.get_parameter("weight")
    width = weight.shape[0] if isinstance(module, nn.Linear) else weight.shape[1]
    outputs: Tensor = _Gathered.apply(_run_part(module, *args, **kwargs), group, width)
    return outputs


def _rows(module: nn.Embedding, mesh: DeviceMesh, tokens: Tensor) -> Tensor:
    """What an embedding gives whose tokens are split: each process's vectors, and zeros in place of the others'."""
    count = len(_parts(module)["weight"])
    numbers = tokens - mesh.get_local_rank() * _part_size(module.num_embeddings, mesh.size())
    elsewhere = (numbers < 0) | (numbers >= count)
    vectors = _run_part(module, numbers.clamp(0, count - 1)).masked_fill(elsewhere.unsqueeze(-1), 0)
    torch.distributed.all_reduce(vectors, group=mesh.get_group())
    return vectors


def _run_part(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """Run a module on this process's part of its weights."""
    parameters, parts = dict(module._parameters), _parts(module)
    if is_transposed(module):  # it knows its width by heart
        return functional.linear(args[0], parts["weight"].T, parts["bias"])
    try:
        module._parameters.update(parts)
        outputs: Tensor = type(module).forward(module, *args, **kwargs)
        return outputs
    finally:
        module._parameters.update(parameters)


def _parts(module: nn.Module) -> dict[str, Any]:
    shards: dict[str, Any] = dict(module.named_parameters(recurse=False))
    return {name: shard.to_local() for name, shard in shards.items()}


def _part_size(size: int, parts: int) -> int:
    """Size of the first parts of a dimension, after which the last ones may be smaller, or empty."""
    return -(-size // parts)


class _Copied(Function):
    """The same in all processes; gradients, of which each has a part, are added up."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None


class _Gathered(Function):
    """Parts [..., n_p] of all processes side by side, [..., n]; each takes its part of the gradient, which is the same in all."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: ProcessGroup, width: int) -> Tensor:
        size = _part_size(width, group.size())
        ctx.start, ctx.count = group.rank() * size, part.shape[-1]
        padded = functional.pad(part, (0, size - ctx.count)).contiguous()
        parts = [torch.empty_like(padded) for _ in range(group.size())]
        torch.distributed.all_gather(parts, padded, group=group)
        return torch.cat([each[..., : max(width - number * size, 0)] for number, each in enumerate(parts)], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient[..., ctx.start : ctx.start + ctx.count], None, None
