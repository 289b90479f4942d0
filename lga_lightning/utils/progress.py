"""Bars for what may take long."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds


def hidden() -> bool | None:
    """What tqdm's ``disable`` is to be: a bar is for a terminal, and not for one that a bar of rich has taken over."""
    from rich.file_proxy import FileProxy

    return True if isinstance(sys.stderr, FileProxy) else None


def with_bar(items: Sequence[T], what: str) -> Iterable[T]:
    """The items; where they take longer than two seconds and a person looks on, with a bar that says how long it will be.

    Args:
        items: What is gone through.
        what: What is done with them, to stand before the bar.
    """
    from tqdm import tqdm

    return tqdm(items, desc=what, delay=PATIENCE, leave=False, disable=hidden())
