"""The command line: in this process, in copies of it, and in processes of its own."""

from __future__ import annotations

import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from lga_lightning import __main__ as entry

QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
FAST_METHOD = {"steps": 3, "contexts_each": 1, "context_lengths": (3,), "second_moment": "identity"}
FAST_EDIT = [
    f"--model.editor.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in FAST_METHOD.items()
]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp_fork"]
"""Two processes, neither of which has anything to import."""


def shell(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess:
    """Run ``lga`` as the shell does."""
    command = [sys.executable, "-m", "lga_lightning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **kwargs)


class Forked:
    """``lga`` in a copy of this process, which has imported what takes seconds, with all that a test has patched.

    Args:
        words: The command line.
        cwd: Where it runs.
        script: A script that is run in place of ``lga``.

    Attributes:
        number: The process's number.
        returncode: The exit code once it has ended, or less than 0, the signal that killed it.
    """

    def __init__(self, *words: str, cwd: Path | None = None, script: Path | None = None) -> None:
        self._said = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self.returncode: int | None = None
        sys.stdout.flush()
        self.number = os.fork()
        if not self.number:
            self._run(words, cwd, script)

    def send(self, asked: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.number, asked)

    def runs(self) -> bool:
        """Whether it still runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.number, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode is None

    def wait_for(self, begun: Callable[[], bool]) -> None:
        """Wait until something is there, which it leaves; it must still run then."""
        deadline = time.monotonic() + 120
        while not begun() and self.runs() and time.monotonic() < deadline:
            time.sleep(0.002)
        assert self.runs(), self._read(1)

    def end(self, timeout: float = 240) -> subprocess.CompletedProcess:
        """Wait until it has ended; it must."""
        deadline = time.monotonic() + timeout
        while self.runs():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"No end within {timeout} s: {self._read(1)}")
            time.sleep(0.01)
        return subprocess.CompletedProcess([], self.returncode, self._read(0), self._read(1))

    def _read(self, number: int) -> str:
        self._said[number].seek(0)
        return self._said[number].read()

    def _run(self, words: tuple[str, ...], cwd: Path | None, script: Path | None) -> NoReturn:
        code = 1
        try:
            for number, file in enumerate(self._said, start=1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            warnings.showwarning = lambda message, *_: sys.stderr.write(f"{message}\n")
            for log in map(logging.getLogger, ["", *logging.root.manager.loggerDict]):
                for handler in log.handlers:
                    if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stderr:
                        handler.stream = sys.stderr  # setStream would flush one that an earlier test has closed
            # a torch with CUDA takes copies of a process for unfit to use it, and Lightning forks no others from them; these use CPUs alone
            torch.cuda._is_in_bad_fork = bool
            signal.signal(signal.SIGINT, signal.default_int_handler)  # those who run tests in the background ignore it
            for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):  # of an earlier test's
                os.environ.pop(name, None)
            os.chdir(cwd or Path())
            # where Lightning looks for what a further process is to run
            sys.modules["__main__"].__spec__ = entry.__spec__
            sys.argv = [str(script or "lga"), *words]
            if script:
                runpy.run_path(str(script), run_name="__main__")
            else:
                entry.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def forked(*words: str, cwd: Path | None = None, script: Path | None = None) -> subprocess.CompletedProcess:
    """Run ``lga``, or a script, in a copy of this process, to its end."""
    return Forked(*words, cwd=cwd, script=script).end()


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """Run the command as the shell does; it must end with one paragraph and no traceback."""
    sys.argv = ["lga", *arguments]
    with pytest.raises(SystemExit) as stop:
        entry.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert "Traceback" not in error, error
    return error[error.index("lga: ") :]
