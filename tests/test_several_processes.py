"""Every verb on three processes that torchrun starts: the files of one process, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lga_lightning.cli import run
from tests.helpers.cli import FAST_EDIT, QUICK
from tests.helpers.data import rows, write_rows

SCRIPT = """
import json
import sys
from lga_lightning.cli import run

if __name__ == "__main__":
    for words in json.load(open(sys.argv[1])):
        run([*words, "--trainer.devices=3"])
"""
BARE = ["--edits.generate=false", "--edits.general=false"]
OF_THIS_RUN = {"seconds", "speed_up", "growth", "checksum"}


def verbs(model: Path, folder: Path) -> list[list[str]]:
    """Commands that leave their files in the current folder: of seven requests, and of two, fewer than there are processes."""
    common = [f"--model.model_name={model}", *QUICK]
    (folder / "texts.txt").write_text("\n\n".join(f"The capital of country {n} is old." for n in range(100)))
    moments = [
        "--model.layers=1-2",
        f"--model.text={folder / 'texts.txt'}",
        "--model.tokens=900",
        "--model.save_every=0",
    ]
    locators = "--compare.locators={LGA: LGA, Middle: MiddleLayer}"
    found = [["moments", *common, *moments]]
    for count, verb, options in (
        (7, "fit", ["--verify=true", "--verify.budget=12", "--verify.requests=2"]),
        (7, "validate", BARE),
        (7, "predict", BARE),
        (2, "validate", ["--model.layer=1", "--edits.max_new_tokens=4"]),
        (2, "predict", ["--model.layer=1", "--model.mode=sequential", "--edits.overwrite=true", *BARE]),
        (7, "compare", ["--data.proxy_share=0.5", "--model.only_known=false", locators]),
    ):
        data = write_rows(folder / f"{count}.jsonl", rows(count))
        where = [f"--data.requests={data}", "--data.batch_size=3", f"--trainer.default_root_dir={count}"]
        found.append([verb, *common, *where, *FAST_EDIT, *options])
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two results say the same, numbers to six digits, and to 1e-7 where probabilities are subtracted."""
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in (one.keys() | other.keys()) - OF_THIS_RUN)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == (pytest.approx(other, rel=1e-6, abs=1e-7, nan_ok=True) if isinstance(other, float) else other)


@pytest.mark.usefixtures("at_the_shell")
def test_three_processes_leave_the_files_of_one(model_folder, tmp_path, monkeypatch):
    commands = verbs(model_folder, tmp_path)
    for folder in ("one", "three"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    for words in commands:
        run(words)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    settings = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, str(tmp_path / "script.py"), str(tmp_path / "commands.json")],
        cwd=tmp_path / "three",
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for one, three in (("one", "three"), ("cache", "lga-lightning")):  # what is found, and second moments
        files, others = (
            sorted(
                str(path.relative_to(tmp_path / folder)) for path in (tmp_path / folder).rglob("*") if path.is_file()
            )
            for folder in (one, three)
        )
        assert others == files
        for name in files:
            mine, theirs = tmp_path / one / name, tmp_path / three / name
            if name.endswith(".json"):
                assert same(json.loads(theirs.read_text()), json.loads(mine.read_text())), name
            elif name.endswith(".safetensors"):
                expected = load_file(mine)
                torch.testing.assert_close(load_file(theirs), expected, rtol=1e-6, atol=1e-9, equal_nan=True)
