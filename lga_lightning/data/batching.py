"""Requests in batches, dealt out to processes."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from lga_lightning.data.requests import EditRequest, units_of

T = TypeVar("T")


@dataclass
class RequestBatch:
    """A batch of requests.

    Attributes:
        index: Position of each request in its data set: the key under which results are kept.
        requests: The requests.
    """

    index: list[int]
    requests: list[EditRequest]

    def to(self, device: object, **kwargs: object) -> RequestBatch:
        """Itself: text has no device. Lightning would else look into every request for tensors."""
        return self


def collate_requests(batch: Sequence[EditRequest], **kwargs: object) -> list[EditRequest]:
    """The ``collate_fn`` of a ``DataLoader`` over a list of requests: the batch is a list.

    Args:
        batch: The requests.
        kwargs: What ``DataLoader`` adds for collate functions of nested types.
    """
    return list(batch)


class RequestBatches:
    """The batches of one process. Requests of one group are in one batch, which is larger than the others if it has to be.

    The batches are the same for any number of processes and are dealt out whole, so that a request has the same
    neighbours, the same padding and the same score wherever it runs. Every process gets as many as every other (else the
    last ones would wait for ever): where the deal does not come out even, batches are dealt twice, and whoever collects
    results by index drops the repeats.

    Args:
        requests: All requests of the data set.
        batch_size: Requests a batch.
        rank: Number of this process.
        world_size: Number of processes.
        done: Indices that need not run again (a resumed run).
        in_order: Keep the order of the requests, for edits one after the other.
    """

    def __init__(
        self,
        requests: Sequence[EditRequest],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        done: Collection[int] = (),
        in_order: bool = False,
    ) -> None:
        self.requests = requests
        places = count()
        units = [[next(places) for _ in unit] for unit in units_of(requests)]
        if not in_order:  # requests of similar length go together, since every row is padded to its batch's longest
            lengths = [len(request.prompt) + len(request.target_new) for request in requests]
            units.sort(key=lambda unit: (max(lengths[i] for i in unit), unit))
        batches = _filled(units, batch_size)
        if not in_order:  # but short and long batches alternate: time left and confidence are then right from early on
            random.Random(0).shuffle(batches)
        left = [rest for batch in batches if (rest := [i for i in batch if i not in done])]
        left = left or batches[:1]  # Lightning ends a run without batches before its last hooks
        self.batches = dealt(left, rank, world_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[RequestBatch]:
        for batch in self.batches:
            yield RequestBatch(batch, [self.requests[i] for i in batch])


def dealt(items: Sequence[T], rank: int, world_size: int) -> list[T]:
    """A process's share of some items, as many as any other's, so that they stay in step: the last ones are dealt twice.

    Args:
        items: The items, at least one.
        rank: Number of this process.
        world_size: Number of processes.
    """
    missing = -len(items) % world_size
    return [*items, *(items[number % len(items)] for number in range(missing))][rank::world_size]


def _filled(units: Sequence[list[int]], batch_size: int) -> list[list[int]]:
    """Units in batches of at most that many, in their order; one that is larger has a batch of its own."""
    batches: list[list[int]] = []
    for unit in units:
        if batches and len(batches[-1]) + len(unit) <= batch_size:
            batches[-1] += unit
        else:
            batches.append([*unit])
    return batches
