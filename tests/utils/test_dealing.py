"""Work dealt out to processes: each item is done once, and all processes have all results, in order."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from time import sleep

import pytest
import torch
from torch import distributed, multiprocessing

from lga_lightning.utils.dealing import AmongProcesses, alone, from_the_first, gathered

COUNT = 3


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'store'}", world_size=COUNT, rank=rank)
    for items in (range(7), range(2), range(1), ()):  # also fewer than processes
        done = []

        def work(item: int, done: list[int] = done) -> torch.Tensor:
            done.append(item)
            return torch.full((item,), item)  # of its own length

        found = AmongProcesses("cpu")(work, items)
        assert [one.tolist() for one in found] == [[item] * item for item in items]
        (folder / f"{len(items)}-{rank}").write_text(json.dumps(done))
    distributed.destroy_process_group()


def test_each_process_does_its_share(tmp_path):
    multiprocessing.start_processes(process, (tmp_path,), COUNT, start_method="fork")
    done = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir() if path.name != "store"}
    assert [done[f"7-{rank}"] for rank in range(COUNT)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [done[f"2-{rank}"] for rank in range(COUNT)] == [[0], [1], []]
    assert [done[f"1-{rank}"] for rank in range(COUNT)] == [[0]] * COUNT  # there is nothing to deal out


def impatient(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store, timeout = f"file://{folder / 'store'}", timedelta(seconds=3)
    distributed.init_process_group("gloo", store, world_size=2, rank=rank, timeout=timeout)

    def work() -> str:
        sleep(5)
        return f"found by {rank}"

    assert from_the_first(work) == "found by 0"
    with pytest.raises(ZeroDivisionError if rank == 0 else RuntimeError, match=r"division by zero"):
        from_the_first(lambda: 1 / 0)
    distributed.destroy_process_group()


def test_the_others_wait_for_longer_than_their_group_would(tmp_path):
    multiprocessing.start_processes(impatient, (tmp_path,), 2, start_method="fork")


@pytest.mark.parametrize("deal", [alone, AmongProcesses("cpu")], ids=["in turn", "one process"])
def test_alone(deal):
    assert deal(str, range(3)) == ["0", "1", "2"]
    assert gathered("a", "cpu") == ["a"]
    assert from_the_first(lambda: "a") == "a"
