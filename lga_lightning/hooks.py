"""Look into a running model and add to it, by hooks that are gone when the ``with`` block ends, whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def per_row(tensor: Tensor, rows: int) -> Tensor:
    """A module's input or output as [rows, T, d]: some families (OPT) flatten the batch, some norms see heads apart."""
    return tensor.reshape(rows, -1, tensor.shape[-1])


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block, a model is in eval mode and no parameter asks for a gradient; afterwards all is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def logits_at(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Within the block, the model computes logits only at the given positions: they come out as [N, A, V].

    The hidden states are gathered just before the output embedding, so that whatever the model does to its logits
    afterwards (scaling, soft capping) stays in place. With a vocabulary of 50k to 250k this saves much of a short pass.

    Args:
        model: A causal language model.
        positions: [N, A] token positions, one row for each row of the batch.
    """

    def gather(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        index = positions.to(hidden.device).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def captured_inputs(modules: Iterable[nn.Module], positions: Tensor) -> Iterator[list[Tensor]]:
    """Within the block, keep each module's input at one position a row; the list fills as the model runs.

    Args:
        modules: The modules, in the order in which the model runs them.
        positions: [N] token positions.

    Yields:
        A list that holds one [N, d_in] tensor a module after a forward pass.
    """
    captured: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = torch.arange(len(positions), device=args[0].device)
        captured.append(per_row(args[0], len(positions))[rows, positions.to(args[0].device)])

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(keep).remove)
        yield captured


@contextmanager
def added_to_output(module: nn.Module, addition: Callable[[Tensor], Tensor], rows: int | None = None) -> Iterator[None]:
    """Within the block, a module gives its output plus an addition.

    Args:
        module: A module with one input and one output tensor.
        addition: Takes the input [N, T, d_in] and returns what is added, [N, T, d_out], in any float dtype.
        rows: N, for families that flatten the batch before the module (see :func:`per_row`); None if it does not matter
            how the tokens are spread over rows.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs = args[0] if rows is None else per_row(args[0], rows)
        added = addition(inputs)
        return (output + added.view_as(output)).to(output.dtype)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class OutputGradients:
    """Hands every module's input and output gradient to a function while a backward pass runs.

    The function is called within the backward pass, and what it was given is dropped afterwards: nothing accumulates.
    No parameter needs a gradient, and none gets one: the graph begins at the first module's output, so run it on a
    :func:`frozen` model.

    Args:
        receive: Called with a module's key, its input [N, T, d_in] and its output's gradient [N, T, d_out].

    Example:
        >>> layer = nn.Linear(2, 2, bias=False).requires_grad_(False)
        >>> gradients = OutputGradients(lambda key, a, b: print(key, tuple(a.shape), b.tolist()))
        >>> with gradients.watch([("out", layer)]):
        ...     loss = layer(torch.ones(1, 1, 2)).sum()
        ...     gradients.backward(loss)
        out (1, 1, 2) [[[1.0, 1.0]]]
    """

    def __init__(self, receive: Callable[[Any, Tensor, Tensor], None]) -> None:
        self.receive = receive
        self._roots: list[Tensor] = []

    @contextmanager
    def watch(self, modules: Iterable[tuple[Any, nn.Module]]) -> Iterator[None]:
        """Watch modules, each under a key, for one forward and one :meth:`backward`."""
        with ExitStack() as stack:
            stack.callback(self._roots.clear)
            for key, module in modules:
                stack.callback(module.register_forward_hook(self._hook(key)).remove)
            yield

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a scalar loss as far down as the first watched modules, and no further."""
        torch.autograd.grad(loss, self._roots)

    def _hook(self, key: Any) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            inputs = [args[0].detach()]
            is_root = not output.requires_grad
            if is_root:  # nothing before this module needs a gradient: the graph begins here
                output = output.detach().requires_grad_()
                self._roots.append(output)
            output.register_hook(lambda gradient: self.receive(key, inputs.pop(), gradient))
            return output if is_root else None

        return forward
