"""Edits that are made together or on top of each other: several processes share the work, and have what one has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from lga_lightning.callbacks import AdapterWriter
from lga_lightning.editing import MEMIT, RROME, EditMethod, LocFT, UltraEdit, target_value
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.cli import FAST_METHOD
from tests.helpers.data import rows, write_rows
from tests.helpers.runs import module, trainer

COUNT = 8
CASES: dict[str, tuple[EditMethod, str]] = {
    "R-ROME, batch": (RROME(**FAST_METHOD), "batch"),
    "MEMIT, sequential": (MEMIT(window=2, history=True, **FAST_METHOD), "sequential"),
    "UltraEdit, batch": (UltraEdit(warmup=4), "batch"),  # what it finds is of no fixed size
    "LocFT, batch": (LocFT(epochs=1, learning_rate=1e-2), "batch"),  # which finds nothing before it writes
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "requests.jsonl", rows(COUNT))


def predict(folder: Path, data: Path, devices: int = 1, **settings: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The factors of the edit, and what is noted with them."""
    writer = AdapterWriter(generate=False, resamples=10, general=False)
    options = {"devices": devices, "strategy": "ddp_fork" if devices > 1 else "auto"}
    made = module(settings.pop("tokenizer"), layer="1-2", **settings)
    requests = EditDataModule(str(data), batch_size=5)
    trainer(folder, writer, **options).predict(made, datamodule=requests, return_predictions=False)
    assert [path.name for path in folder.iterdir()] == ["adapter"]
    (factors,) = (folder / "adapter").glob("*.safetensors")
    return load_file(factors), json.loads((folder / "adapter" / "lga.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_several_processes_make_the_edit_of_one(case, data, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(
        target_value, "ROWS_ON_CPU", 4
    )  # two requests in two contexts: three batches of a group of five
    editor, mode = CASES[case]
    factors, note = predict(tmp_path / "1", data, editor=editor, mode=mode, tokenizer=tokenizer)
    found, other = predict(tmp_path / "3", data, 3, editor=editor, mode=mode, tokenizer=tokenizer)
    assert found.keys() == factors.keys()
    assert all(found[name].equal(factor) for name, factor in factors.items())
    assert [row["id"] for row in other["requests"]] == [row["id"] for row in note["requests"]]
    for name, metric in note["metrics"].items():
        assert other["metrics"][name]["after"] == pytest.approx(metric["after"], abs=1e-7)
