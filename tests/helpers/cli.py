"""The command line, in this process and in processes of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lga_lightning import __main__ as entry

QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
FAST_METHOD = {"steps": 3, "contexts_each": 1, "context_lengths": (3,), "second_moment": "identity"}
FAST_EDIT = [
    f"--model.editor.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in FAST_METHOD.items()
]


def shell(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess:
    """Run ``lga`` as the shell does."""
    command = [sys.executable, "-m", "lga_lightning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **kwargs)


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """Run the command as the shell does; it must end with one paragraph and no traceback."""
    sys.argv = ["lga", *arguments]
    with pytest.raises(SystemExit) as stop:
        entry.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert "Traceback" not in error, error
    return error[error.index("lga: ") :]
