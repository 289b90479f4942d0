"""Work that several processes have in common: each does its share, and all have the results."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import distributed

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
PATIENCE = timedelta(days=7)


class Deal(Protocol):
    """How work is done that gives a result for each of some items, in their order."""

    def __call__(self, work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
        """The results.

        Args:
            work: Gives the result of an item; it depends on nothing else.
            items: The items.
        """
        ...


def alone(work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    """A :class:`Deal` in which this process does all of it."""
    return [work(item) for item in items]


@dataclass(frozen=True)
class AmongProcesses:
    """A :class:`Deal` in which every process does its share; a collective operation, unless there is but one item or process.

    Attributes:
        device: Where tensors of the results are wanted.
    """

    device: torch.device | str

    def __call__(self, work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
        """See :class:`Deal`."""
        world = world_size()
        if world == 1 or len(items) == 1:
            return alone(work, items)
        found = gathered(alone(work, items[distributed.get_rank() :: world]), self.device)
        return [found[place % world][place // world] for place in range(len(items))]


def world_size() -> int:
    """Number of processes that work together; 1 where nothing has brought them together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def from_the_first(work: Callable[[], ResultT]) -> ResultT:
    """What the first process finds out, on all; the others wait, longer than a process group would let them.

    Args:
        work: What the first process does; its result can be pickled, and holds no tensors.

    Raises:
        RuntimeError: If it fails; the first process raises its own error.
    """
    if world_size() == 1:
        return work()
    patient = distributed.new_group(backend="gloo", timeout=PATIENCE)
    found: list[Any] = [None, ""]
    failed: Exception | None = None
    if distributed.get_rank() == 0:
        try:
            found[0] = work()
        except Exception as error:  # the others would wait for it
            failed, found[1] = error, f"{type(error).__name__}: {error}"
    distributed.broadcast_object_list(found, src=0, group=patient)
    distributed.destroy_process_group(patient)
    if found[1]:
        raise failed or RuntimeError(f"The first process failed: {found[1]}")
    return cast(ResultT, found[0])


def gathered(mine: ResultT, device: torch.device | str) -> list[ResultT]:
    """What all processes have found, in the order of their ranks; a collective operation.

    Args:
        mine: What this process has found: anything that can be pickled.
        device: Where the tensors in it are wanted.
    """
    if world_size() == 1:
        return [mine]
    packed = io.BytesIO()
    torch.save(mine, packed)  # plain pickle would put tensors back on the sender's device
    found = [b""] * world_size()
    distributed.all_gather_object(found, packed.getvalue())
    return [torch.load(io.BytesIO(one), map_location=device, weights_only=False) for one in found]
