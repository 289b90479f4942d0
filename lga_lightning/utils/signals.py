"""SIGTERM, which ends a run as Ctrl-C does: with what is known so far kept, and an exit code that says so."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, SIGTERM raises :class:`Terminated` at once, and an interrupted program ends with 128 plus the signal's number.

    Lightning calls handlers that it finds, and answers an interrupt by itself, after the callbacks had their word, with the exit
    code 1; by itself it takes SIGTERM for a success.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        _end(interrupt)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            _end(end.__context__)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def take_again() -> None:
    """Take SIGTERM from who has put a handler in front. A process that another one waits for just ends: that one has the last word."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate if multiprocessing.parent_process() is None else signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asked again, it is on its way
    raise Terminated


def _end(interrupt: KeyboardInterrupt) -> NoReturn:
    asked = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
    sys.stderr.write(f"\nlga: ended by {asked.name}.\n")
    sys.exit(128 + asked)
