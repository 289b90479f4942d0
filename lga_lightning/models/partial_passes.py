"""Run a part of a model: leave out the blocks below a change, or end a pass early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lga_lightning.models.storage import forget_pass_
from lga_lightning.utils.tensors import with_first


@dataclass
class BlockInput:
    """What goes into a block, kept from a pass so that later passes can begin there.

    Attributes:
        hidden: [N, T, d] the block's input; None before the first pass.
        form: The tuple or list that this model's blocks give, with None in all places; None where they give the hidden states alone.
    """

    hidden: Tensor | None = None
    form: tuple[None, ...] | list[None] | None = None


@contextmanager
def entered_at(blocks: Sequence[nn.Module], layer: int, entry: BlockInput) -> Iterator[None]:
    """Within the ``with`` block, passes over the same rows run the blocks below ``layer`` only the first time.

    Where later blocks take keys and values of earlier ones (:func:`share_keys`), every pass runs them all.

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
        places = [None] * len(output)
        entry.form = places if isinstance(output, list) else tuple(places) if isinstance(output, tuple) else None

    with ExitStack() as stack:
        if layer and not share_keys(blocks):
            if entry.hidden is not None:
                stack.enter_context(bypass_blocks(blocks[:layer], entry.form))
            stack.enter_context(blocks[layer].register_forward_pre_hook(enter))
            stack.enter_context(blocks[layer].register_forward_hook(look))
        yield


def share_keys(blocks: Iterable[nn.Module]) -> bool:
    """Whether some blocks attend to keys and values that others have left in the same pass (Gemma 4's small models)."""
    return any(getattr(child, "is_kv_shared_layer", False) for block in blocks for child in block.children())


@contextmanager
def bypass_blocks(blocks: Iterable[nn.Module], form: tuple[None, ...] | list[None] | None = None) -> Iterator[None]:
    """Within the ``with`` block, transformer blocks hand the hidden states on, and compute nothing.

    Args:
        blocks: Blocks of a model.
        form: The tuple or list that the model expects from them, with None in all places; None where it expects the hidden states alone.
    """

    def hand_on(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return with_first(hidden, form)

    with ExitStack() as stack:
        for module in blocks:
            stack.enter_context(covered(module, hand_on))
        yield


@contextmanager
def covered(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the ``with`` block, another function takes the place of a module's ``forward``; its hooks go on.

    Args:
        module: The module.
        forward: The function.
    """
    before = module.__dict__.get("forward")  # there may be one already (accelerate moves inputs that way)
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


class StopForward(Exception):  # noqa: N818 - no error, a signal, as StopIteration
    """Ends a forward pass."""


@contextmanager
def ends_after(model: nn.Module, module: nn.Module) -> Iterator[None]:
    """Within the ``with`` block, the model's forward pass ends when a module is through, and the ``with`` block with it.

    Args:
        model: The model.
        module: The last of its modules that is needed.
    """

    def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise StopForward

    try:
        with module.register_forward_hook(stop):
            yield
    except StopForward:
        forget_pass_(model)
