"""Disks that are full at the worst moment."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from lga_lightning.exceptions import DataError

CALLS = ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "chmod"), (Path, "write_text"), (Path, "mkdir"))


@contextmanager
def failing_call(nth: int) -> Iterator[None]:
    """Within the block, the n-th call of what writes and names files, whichever it is, finds the disk full."""
    left = nth

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(28, "No space left on device")
            return call(*args, **kwargs)

        return fail

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within the block, no file of this process gets larger, whoever writes it and in whatever language.

    Args:
        size: In bytes.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def error_of(nth: int, write: Callable[[], None]) -> OSError | None:
    """What a writer says when its n-th call fails; None where it has no such call, and is done."""
    try:
        with failing_call(nth):
            write()
    except OSError as error:
        return error
    return None


class FailingRank(L.Callback):
    """Lets one process fail in the midst of a run, and another one wait for it.

    Args:
        rank: The process that fails.
        every: Whether all others fail too, of the same cause, instead of waiting.
        seconds: How long another one is busy with something else.
    """

    def __init__(self, rank: int = 1, every: bool = False, seconds: float = 0.0) -> None:
        self.rank, self.every, self.seconds = rank, every, seconds

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.every or trainer.global_rank == self.rank:
            raise DataError("Somebody has hidden the facts. Look under the carpet.")
        time.sleep(self.seconds)
