"""Several processes of one command: when one of them fails, it alone says why, and all end."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "LGA_FAILED"
LOOK = 0.5  # seconds between two looks at the others
GRACE = 5.0  # seconds that a process has to end in order, once another has failed


class Processes:
    """The processes of one command on one machine, as one of them sees it.

    They share the name of a folder, which the first that fails makes. Lightning's processes have the name from the one that starts
    them; torchrun's find it where they are to leave their errors.
    """

    def __init__(self) -> None:
        given, agent = os.environ.get(MARK), os.environ.get("TORCHELASTIC_ERROR_FILE")
        self._first = given is None and agent is None
        own = Path(tempfile.gettempdir()) / f"lga-failed-{os.getpid()}-{secrets.token_hex(4)}"
        self._mark = Path(given) if given else Path(agent).parent.parent / "lga-failed" if agent else own
        self._parent = os.getppid()
        self._heard = False
        self._over = threading.Event()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within the block, this process ends when another has failed, even where it waits for that one and hears no signal."""
        if self._first:
            os.environ[MARK] = str(self._mark)
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        finally:
            self._over.set()
            if self._first:
                del os.environ[MARK]
                self._forget()

    def speaks(self) -> bool:
        """Whether it is this process that says why the command has failed: the first that has, and asks."""
        try:
            if not self.failed:
                self._mark.mkdir()
                return True
        except FileExistsError:
            pass
        except OSError:  # nowhere to meet: better twice than never
            return True
        return False

    @property
    def failed(self) -> bool:
        """Whether a process has failed, or the one that started this one has ended."""
        orphaned = not self._first and os.getppid() != self._parent
        self._heard = self._heard or orphaned or self._mark.exists()
        return self._heard

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            if self.failed:
                if not self._over.wait(GRACE):
                    if self._first:
                        self._forget()
                    os._exit(2)
                return

    def _forget(self) -> None:
        if self._mark.exists():
            time.sleep(2 * LOOK)  # until all have looked
            with suppress(OSError):
                self._mark.rmdir()
