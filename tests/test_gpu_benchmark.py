"""``benchmarks/gpu.py --tiny`` on the CPU: a row for each model and contender, and a word where one cannot run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def arguments(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    output = tmp_path / "table.md"
    options = ["--tiny", "--device", "cpu", "--rounds", "1", "--steps", "2", "--sample", "1", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options, "--output", str(output)])
    return output


def test_tiny_models_fill_the_table(arguments):
    import gpu

    gpu.main()
    lines = arguments.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("On a CPU")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert {len(row) for row in rows} == {len(gpu.HEADINGS)}
    assert [row[0] for row in rows] == [name for name in gpu.MODELS for _ in range(5)]
    for row in rows:
        if row[0] == "qwen3-30b-a3b" and row[1] != "bare pass":
            continue  # a mixture of experts: measured where it is supported, and else its row says so
        assert row[2] == ("1" if "autograd" in row[1] else "2"), row
        assert float(row[3]) > 0, row
        assert float(row[4]) == pytest.approx(1) if row[1] == "bare pass" else float(row[4]) > 0


def test_what_cannot_run_says_so(arguments):
    import torch
    from gpu import Contender, measure_one

    from lga_lightning.exceptions import ModelError

    def fails_with(error):
        def run():
            raise error

        cells, each = measure_one(Contender("edits", run, 1, 1.0), 1.0, 1.0, _Options())
        assert each is None
        return cells[0]

    assert fails_with(ModelError("no such matrix")) == "edits: not supported by the package"
    assert fails_with(torch.OutOfMemoryError("too much")) == "edits: out of memory"
    with pytest.raises(RuntimeError, match="a fault"):
        fails_with(RuntimeError("a fault"))


class _Options:
    device, rounds = "cpu", 1
