"""Scratch files and folders beside what they will become, and an end for those that a killed run has left."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what is left there stays
    fcntl = None  # type: ignore[assignment]


@contextmanager
def scratch_beside(path: Path, folder: bool = False) -> Iterator[Path]:
    """Within the block, an empty scratch file or folder beside ``path``; whatever then has its name is removed.

    Whoever makes one holds a lock on it. What killed runs have left for the same ``path`` has none, and is removed first.

    Args:
        path: What the scratch is to become; its folder is made.
        folder: Whether it is a folder. A file has the suffix of ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        if (lock := _lock(left)) is not None:
            _remove(left)
            os.close(lock)
    while True:
        if folder:
            scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
            os.close(handle)
            scratch = Path(name)
        lock = _lock(scratch)
        if scratch.exists():  # else another process took it for one that was left, before it had its lock
            break
    try:
        yield scratch
    finally:
        _remove(scratch)
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """A lock on a file or folder, until the handle is closed or the process ends; None where another one holds it, or there are none."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
