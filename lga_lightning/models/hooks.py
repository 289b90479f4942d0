"""Look into a running model and add to it, by hooks that are gone when the ``with`` block ends, whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lga_lightning.models.checkpointing import checkpointed
from lga_lightning.models.packed import gradients_through_packed
from lga_lightning.utils.tensors import with_first


def per_row(tensor: Tensor, rows: int) -> Tensor:
    """A module's input or output as [rows, T, d]: some families (OPT) flatten the batch, some norms see heads apart."""
    return tensor.reshape(rows, -1, tensor.shape[-1])


def first_tensor(output: Any) -> Tensor:
    """A module's output where some (attention, GPT-J's blocks) give a tuple or a list that begins with it."""
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor


@contextmanager
def without_autocast(model: nn.Module) -> Iterator[None]:
    """Within the ``with`` block, no autocast is on where a model is, so that all is computed in its own dtype.

    A model whose weights are of several dtypes, which may run by autocast alone, is left to it.

    Args:
        model: The model, on any devices.
    """
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(dtypes) > 1:
        yield
        return
    with ExitStack() as stack:
        for kind in {parameter.device.type for parameter in model.parameters()} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the ``with`` block, a model is in eval mode and no parameter asks for a gradient; then all is as it was.

    Modules that were compiled in place (``module.compile()``) run uncompiled, since compiled code passes over hooks that come later.
    Embeddings ask for no gradient either, as transformers has them do for the sake of gradient checkpointing. Gradients flow through
    packed weights, see :func:`~lga_lightning.models.packed.gradients_through_packed`, and checkpointing goes on where it is enabled.
    An autocast around it does not reach in: what is found is that of the model's own dtype.
    """
    modes = [(module, module.training) for module in model.modules()]
    compiled = [(module, module._compiled_call_impl) for module in model.modules() if module._compiled_call_impl]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    find = getattr(model, "get_input_embeddings", None)
    hook = None if find is None else find().register_forward_hook(_detached)
    try:
        model.eval()
        for module, _ in compiled:
            module._compiled_call_impl = None
        for parameter in wanted:
            parameter.requires_grad_(False)
        with without_autocast(model), gradients_through_packed(model), checkpointed(model):
            yield
    finally:
        if hook is not None:
            hook.remove()
        for module, training in modes:
            module.training = training
        for module, run in compiled:
            module._compiled_call_impl = run
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def logits_at(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Within the ``with`` block, the model computes logits only at the given positions: they come out as [N, A, V].

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

    with model.get_output_embeddings().register_forward_pre_hook(gather):
        yield


@contextmanager
def inputs_seen(modules: Iterable[nn.Module], receive: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within the ``with`` block, a function is shown the modules' inputs as the model runs.

    Args:
        modules: The modules.
        receive: Called with a module's place among them and its first input.
    """

    def hook(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: receive(number, args[0])

    with ExitStack() as stack:
        for number, module in enumerate(modules):
            stack.enter_context(module.register_forward_pre_hook(hook(number)))
        yield


@contextmanager
def outputs_seen(modules: Iterable[nn.Module], receive: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the ``with`` block, a function is shown the modules' outputs as the model runs; of a tuple, the first part.

    Args:
        modules: The modules.
        receive: Called with an output.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(
                module.register_forward_hook(lambda module, args, output: receive(first_tensor(output)))
            )
        yield


@contextmanager
def captured_inputs(modules: Iterable[nn.Module], positions: Tensor) -> Iterator[list[Tensor]]:
    """Within the ``with`` block, keep each module's input at one position a row; the list fills as the model runs.

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
    """Within the ``with`` block, keep each module's output at one position a row; see :func:`captured_inputs`.

    Args:
        modules: The modules, in the order in which the model runs them.
        positions: [N] token positions.

    Yields:
        A list that holds one [N, d_out] tensor a module after a forward pass.
    """
    captured: list[Tensor] = []
    with outputs_seen(modules, lambda output: captured.append(_at(output, positions))):
        yield captured


@contextmanager
def whole_outputs(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Within the ``with`` block, keep each module's output at all positions; the list fills as the model runs.

    Args:
        modules: The modules, in the order in which the model runs them.

    Yields:
        A list that holds one [N, T, d_out] tensor a module after a forward pass.
    """
    captured: list[Tensor] = []
    with outputs_seen(modules, captured.append):
        yield captured


@contextmanager
def kept_output(module: nn.Module) -> Iterator[list[Any]]:
    """Within the ``with`` block, keep what a module gives, whatever its type; the list fills as the model runs.

    Args:
        module: The module.

    Yields:
        A list that holds one output a call.
    """
    kept: list[Any] = []
    with module.register_forward_hook(lambda module, args, output: kept.append(output)):
        yield kept


@contextmanager
def captured_calls(modules: Iterable[nn.Module]) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Within the ``with`` block, keep the arguments that each module is called with.

    Args:
        modules: The modules, in the order in which the model runs them.

    Yields:
        A list that holds each call's positional arguments and keywords after a forward pass.
    """
    captured: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.append((args, kwargs))

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(module.register_forward_pre_hook(keep, with_kwargs=True))
        yield captured


@contextmanager
def added_to_output(module: nn.Module, addition: Callable[[Tensor], Tensor], rows: int | None = None) -> Iterator[None]:
    """Within the ``with`` block, a module gives its output plus an addition.

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
        return with_first((tensor + added.view_as(tensor)).to(tensor.dtype), output)

    with module.register_forward_hook(hook, with_kwargs=True):
        yield


@contextmanager
def replaced_output(module: nn.Module, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the ``with`` block, a module's output is what a function makes of it; of a tuple, the first part.

    Args:
        module: Any module.
        replace: Takes the output and returns what is to take its place.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        return with_first(replace(first_tensor(output)), output)

    with module.register_forward_hook(hook):
        yield


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
                stack.enter_context(module.register_forward_hook(self._hook(key)))
            yield

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a scalar loss as far down as the first watched modules, and no further."""
        torch.autograd.grad(loss, self._roots)

    def _hook(self, key: Any) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():  # it is called by who receives, within the backward pass
                return None
            inputs = [args[0].detach()]
            is_root = not output.requires_grad
            if is_root:  # nothing before this module needs a gradient: the graph begins here
                output = output.detach().requires_grad_()
                self._roots.append(output)
            output.register_hook(lambda gradient: self.receive(key, inputs.pop(), gradient))
            return output.clone() if is_root else None  # some families add to it in place, which no leaf allows

        return forward


def _at(tensor: Tensor, positions: Tensor) -> Tensor:
    rows = torch.arange(len(positions), device=tensor.device)
    return per_row(tensor, len(positions))[rows, positions.to(tensor.device)]


def _detached(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    return output.detach() if output.requires_grad else None
