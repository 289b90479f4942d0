"""Dealing requests out to processes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from lga_lightning.data import RequestBatches
from lga_lightning.data.requests import EditRequest


def many(count: int) -> list[EditRequest]:
    return [EditRequest(f"Rome is {'very ' * (i * 7 % 5)}near", "Rome", str(i)) for i in range(count)]


def dealt(count: int, size: int, world_size: int, done: tuple[int, ...] = ()) -> list[list[tuple[int, ...]]]:
    """The batches of every process, after a look at the requests in them."""
    requests = many(count)
    processes = []
    for rank in range(world_size):
        batches = RequestBatches(requests, size, rank, world_size, done)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        assert all(batch.requests == [requests[i] for i in batch.index] for batch in drawn)
        processes.append([tuple(batch.index) for batch in drawn])
    return processes


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 7, 23, 40])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_every_process_gets_as_much_and_all_is_dealt(count, size, world_size):
    processes = dealt(count, size, world_size)
    assert {len(batches) for batches in processes} == {math.ceil(math.ceil(count / size) / world_size)}
    alone = dealt(count, size, 1)[0]
    together = Counter(batch for batches in processes for batch in batches)
    assert set(together) == set(alone)  # the same batches for any number of processes
    assert sorted(i for batch in together for i in batch) == list(range(count))
    assert sum(together.values()) - len(together) < world_size  # no more repeats than needed to come out even
    assert max(map(len, alone)) <= size


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_what_is_done_does_not_run_again(world_size):
    done = tuple(range(0, 23, 3))
    processes = dealt(23, 4, world_size, done)
    assert len({len(batches) for batches in processes}) == 1
    left = {batch for batches in processes for batch in batches}
    assert sorted(i for batch in left for i in batch) == [i for i in range(23) if i not in done]
    whole = dealt(23, 4, 1)[0]
    assert all(any(set(batch) <= set(other) for other in whole) for batch in left)  # neighbours stay neighbours


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_a_batch_is_left_when_everything_is_done(world_size):
    assert [len(batches) for batches in dealt(7, 3, world_size, tuple(range(7)))] == [1] * world_size


def test_similar_lengths_go_together():
    (batches,) = dealt(40, 8, 1)
    lengths = [[len(many(40)[i].prompt) for i in batch] for batch in batches]
    assert sum(max(row) - min(row) for row in lengths) <= 5 * 4  # 5 lengths, 5 apart: mixed batches would have 20 each


def test_a_batch_stays_where_it_is():
    batch = next(iter(RequestBatches(many(3), 2)))
    assert batch.to("meta") is batch


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_group_is_in_one_batch(size, in_order):
    requests = [replace(request, group=str(i // 3) if i % 6 < 3 else None) for i, request in enumerate(many(24))]
    batches = list(RequestBatches(requests, size, in_order=in_order))
    assert sorted(i for batch in batches for i in batch.index) == list(range(24))
    holds = {i: number for number, batch in enumerate(batches) for i in batch.index}
    for first in range(0, 24, 6):
        assert len({holds[first + i] for i in range(3)}) == 1
    assert all(len(batch.index) <= max(size, 3) for batch in batches)
    if in_order:
        assert [i for batch in batches for i in batch.index] == list(range(24))
