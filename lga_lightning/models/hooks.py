"""Look into a running model and add to it, by hooks that are gone when the ``with`` block ends, whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
def inputs_seen(modules: Iterable[nn.Module], receive: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within the block, a function is shown the modules' inputs as the model runs.

    Args:
        modules: The modules.
        receive: Called with a module's place among them and its first input.
    """

    def hook(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: receive(number, args[0])

    with ExitStack() as stack:
        for number, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(hook(number)).remove)
        yield


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
    with inputs_seen(modules, lambda _, inputs: captured.append(_at(inputs, positions))):
        yield captured


@contextmanager
def captured_outputs(modules: Iterable[nn.Module], positions: Tensor) -> Iterator[list[Tensor]]:
    """Within the block, keep each module's output at one position a row; see :func:`captured_inputs`.

    Yields:
        A list that holds one [N, d_out] tensor a module after a forward pass.
    """
    captured: list[Tensor] = []
    with _outputs_seen(modules, lambda output: captured.append(_at(output, positions))):
        yield captured


@contextmanager
def _outputs_seen(modules: Iterable[nn.Module], receive: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the block, a function is shown the modules' outputs as the model runs."""
    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_hook(lambda module, args, output: receive(first_tensor(output)))
            stack.callback(handle.remove)
        yield


def _at(tensor: Tensor, positions: Tensor) -> Tensor:
    rows = torch.arange(len(positions), device=tensor.device)
    return per_row(tensor, len(positions))[rows, positions.to(tensor.device)]


def first_tensor(output: Any) -> Tensor:
    """A module's output where some (attention, GPT-J's blocks) give a tuple that begins with it."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


@dataclass
class BlockInput:
    """What goes into a block, kept from a pass so that later passes can begin there.

    Attributes:
        hidden: [N, T, d] the block's input; None before the first pass.
        in_tuple: Whether this model's blocks give a tuple that begins with the hidden states.
    """

    hidden: Tensor | None = None
    in_tuple: bool = False


@contextmanager
def entered_at(blocks: Sequence[nn.Module], layer: int, entry: BlockInput) -> Iterator[None]:
    """Within the block, passes over the same rows run the blocks below ``layer`` only the first time.

    Args:
        blocks: All blocks of the model.
        layer: The first block in which the passes differ.
        entry: Filled by the first pass, used by the later ones.
    """

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if entry.hidden is None:
            entry.hidden = args[0].detach()
        return (entry.hidden, *args[1:])

    def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        entry.in_tuple = isinstance(output, tuple)

    with ExitStack() as stack:
        if layer:
            if entry.hidden is not None:
                stack.enter_context(bypass_blocks(blocks[:layer], entry.in_tuple))
            stack.callback(blocks[layer].register_forward_pre_hook(enter).remove)
            stack.callback(blocks[layer].register_forward_hook(look).remove)
        yield


@contextmanager
def bypass_blocks(blocks: Iterable[nn.Module], in_tuple: bool = False) -> Iterator[None]:
    """Within the block, transformer blocks hand the hidden states on, and compute nothing.

    A hook cannot keep a module from computing, so its ``forward`` is covered up for as long as the block lasts.

    Args:
        blocks: Blocks of a model.
        in_tuple: Whether the model expects a tuple from them.
    """

    def hand_on(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden,) if in_tuple else hidden

    with ExitStack() as stack:
        for module in blocks:
            before = module.__dict__.get("forward")  # there may be one already (accelerate moves inputs that way)
            module.__dict__["forward"] = hand_on
            if before is None:
                stack.callback(module.__dict__.pop, "forward")
            else:
                stack.callback(module.__dict__.__setitem__, "forward", before)
        yield


class StopForward(Exception):  # noqa: N818 - no error, a signal, as StopIteration
    """Ends a forward pass."""


@contextmanager
def ends_after(module: nn.Module) -> Iterator[None]:
    """Within the block, the model's forward pass ends when a module is through, and the block with it."""

    def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise StopForward

    handle = module.register_forward_hook(stop)
    try:
        yield
    except StopForward:
        pass
    finally:
        handle.remove()


@contextmanager
def added_to_output(module: nn.Module, addition: Callable[[Tensor], Tensor], rows: int | None = None) -> Iterator[None]:
    """Within the block, a module gives its output plus an addition.

    Args:
        module: A module with one input tensor, and one output tensor or a tuple that begins with it.
        addition: Takes the input [N, T, d_in] and returns what is added, [N, T, d_out], in any float dtype.
        rows: N, for families that flatten the batch before the module (see :func:`per_row`); None if it does not matter
            how the tokens are spread over rows.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any) -> Any:
        inputs = args[0] if args else kwargs["hidden_states"]
        tensor = first_tensor(output)
        added = addition(inputs if rows is None else per_row(inputs, rows))
        changed = (tensor + added.view_as(tensor)).to(tensor.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def whole_outputs(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Within the block, keep each module's output at all positions; the list fills as the model runs.

    Args:
        modules: The modules, in the order in which the model runs them.
    """
    captured: list[Tensor] = []
    with _outputs_seen(modules, captured.append):
        yield captured


@contextmanager
def replaced_output(module: nn.Module, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, a module's output is what a function makes of it; of a tuple, the first part.

    Args:
        module: Any module.
        replace: Takes the output and returns what is to take its place.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        replaced = replace(first_tensor(output))
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def captured_calls(modules: Iterable[nn.Module]) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Within the block, keep the arguments that each module is called with, positional ones and keywords.

    Args:
        modules: The modules, in the order in which the model runs them.
    """
    captured: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.append((args, kwargs))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        yield captured


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
