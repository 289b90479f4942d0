"""Of several processes, the one that fails says why, once, and all end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lga_lightning.utils.processes import GRACE, MARK, Processes
from tests.helpers.cli import FAST_EDIT, TWO, Forked, forked
from tests.helpers.data import rows, write_rows

PARAGRAPH = "lga: Somebody has hidden the facts. Look under the carpet.\n"
FAILING = ["--trainer.devices=2", "--trainer.callbacks=tests.helpers.faults.FailingRank"]

pytestmark = pytest.mark.usefixtures("at_the_shell")


def test_the_first_that_fails_speaks(monkeypatch):
    first = Processes()
    assert not first.failed
    with first.together():
        second, third = Processes(), Processes()
        assert second.speaks()
        assert first.failed
        assert not first.speaks()
        assert not third.speaks()
    assert MARK not in os.environ
    assert not first._mark.exists()


def test_where_torchrun_starts_the_processes_they_meet_where_it_looks(tmp_path, monkeypatch):
    processes = []
    for rank in (0, 1):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_0" / str(rank) / "error.json"))
        processes.append(Processes())
        (tmp_path / "attempt_0" / str(rank)).mkdir(parents=True)
    assert [one.speaks() for one in processes] == [True, False]
    assert processes[0]._mark.is_relative_to(tmp_path)


def test_one_that_hears_nothing_is_ended(tmp_path):
    code = "import signal, time\nfrom lga_lightning.utils.processes import Processes\nsignal.pthread_sigmask(signal.SIG_BLOCK, "
    code += "{signal.SIGTERM})\nwith Processes().together():\n    time.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: str(tmp_path / "mark")})
    time.sleep(0.5)
    (tmp_path / "mark").mkdir()
    assert process.wait(timeout=GRACE + 20) == 2


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    """Processes that are started find the tests' callbacks."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.parametrize("extra", [["rank=1"], ["every=true"], ["rank=1", "seconds=600"]], ids=str)
def test_an_error_of_one_process_is_told_once_and_ends_all(extra, arguments):
    options = [f"--trainer.callbacks.{option}" for option in extra]
    done = forked("fit", *arguments, *FAST_EDIT, *FAILING, *options)
    # Lightning ends what it has started, and itself, where it looks first
    assert done.returncode in (2, -signal.SIGKILL), done.stderr
    assert done.stderr.count(PARAGRAPH) == 1
    assert "Traceback" not in done.stderr


def test_under_torchrun_too(arguments):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lga_lightning"]
    words = ["fit", *arguments, *FAST_EDIT, *FAILING]
    done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    assert done.stderr.count(PARAGRAPH) == 1
    assert done.stderr.count("Traceback") <= 1  # torchrun's own


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_and_where_lightning_forks_or_spawns(strategy, arguments):
    done = forked("fit", *arguments, *FAST_EDIT, *FAILING, f"--trainer.strategy={strategy}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(PARAGRAPH) == 1
    assert "Traceback" not in done.stderr


def test_sigterm_ends_what_lightning_forks(arguments, tmp_path):
    data, root = write_rows(tmp_path / "many.jsonl", rows(8000)), tmp_path / "run"
    run = Forked("fit", *arguments, f"--data.requests={data}", *TWO, f"--trainer.default_root_dir={root}")
    run.wait_for((root / "attribution.ckpt").exists)
    run.send(signal.SIGTERM)
    done = run.end(60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "--ckpt_path" in done.stderr
    assert "lga: ended by SIGTERM." in done.stderr
    torch.load(root / "attribution.ckpt")
