"""Each verb is killed at random moments, run again, and ends as an undisturbed run does (more of them: benchmarks/kills.py)."""

from __future__ import annotations

import os
import random
import runpy
import time
from pathlib import Path

import pytest

from tests.helpers.cli import QUICK, Forked, forked
from tests.helpers.data import rows, write_rows

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "kills.py"))
KILLS = 2

pytestmark = pytest.mark.usefixtures("at_the_shell")


def start(words: list[str]) -> int:
    return Forked(*words).number


@pytest.mark.parametrize("verb", SCRIPT["CASES"])
def test_a_killed_run_goes_on(verb, model_folder, tmp_path, monkeypatch):
    case, common = SCRIPT["CASES"][verb], [f"--model.model_name={model_folder}", *QUICK]
    if verb != "moments":
        common += [f"--data.requests={write_rows(tmp_path / 'requests.jsonl', rows(6))}", "--data.batch_size=2"]

    def prepare(name: str) -> Path:
        cache = tmp_path / name / "cache" / "of" / "ours"
        monkeypatch.setattr("lga_lightning.covariance.store.cache_folder", lambda: cache)
        return tmp_path / name

    begun = time.monotonic()
    whole = prepare("whole")
    assert forked(*case.words(whole, common)).returncode == 0
    seconds, expected = time.monotonic() - begun, case.result(whole)
    assert expected is not None
    draw, killed = random.Random(verb), 0
    for number in range(KILLS):
        folder = prepare(str(number))
        was_running, found = SCRIPT["kill_and_go_on"](case, folder, common, start, draw.uniform(0, seconds), common)
        killed += was_running
        assert SCRIPT["alike"](found, expected)
        left = [path.name for path in folder.rglob(".*") if path.name not in (".lock",)]
        assert not left
    assert killed


def test_moments_that_were_all_read_when_the_run_was_killed_are_kept(model_folder, tmp_path, monkeypatch):
    case, common = SCRIPT["CASES"]["moments"], [f"--model.model_name={model_folder}", *QUICK]
    monkeypatch.setattr("lga_lightning.covariance.store.cache_folder", lambda: tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("lga_lightning.modules.moments.finish", lambda *_: os._exit(9))
        assert forked(*case.words(tmp_path, common)).returncode == 9
    assert case.result(tmp_path) is None
    assert forked(*case.words(tmp_path, common)).returncode == 0
    assert case.result(tmp_path) is not None
