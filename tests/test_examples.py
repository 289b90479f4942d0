"""The examples run, word for word, on a tiny model; layer profiles and edits are where they say."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lga_lightning import WeightDelta

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(name: str) -> dict[str, object]:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        monkeypatch.setattr(sys, "argv", [name, "--tiny", "--folder", str(tmp_path)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_with_lightning(run, tmp_path, capsys):
    run("with_lightning.py")
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert sum(bool(row["lga/layer_3"]) for row in logged) == 3  # before training, and after each epoch
    assert any(row["loss"] for row in logged)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert len(events.Scalars("lga/layer_3")) == 3
    assert (tmp_path / "attribution.json").is_file()
    assert "The edits are in the weights now" in " ".join(capsys.readouterr().out.split())


def test_with_transformers(run, tmp_path, capsys):
    run("with_transformers.py")
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    profiles = [entry for entry in history if "lga/layer_3" in entry]
    assert len(profiles) == 3
    assert {"lga/golden_layer", "lga/confidence", "step"} <= profiles[-1].keys()
    result = json.loads((tmp_path / "attribution.json").read_text())
    assert result["scores"][3] == pytest.approx(profiles[-1]["lga/layer_3"])
    assert (tmp_path / "model.safetensors").is_file()
    said = " ".join(capsys.readouterr().out.split())
    assert f"Layer {result['golden_layer']}" in said or f"layer {result['golden_layer']}" in said


def test_without_a_trainer(run, tmp_path):
    run("without_trainer.py")
    with (tmp_path / "profiles.csv").open() as file:
        profiles = list(csv.reader(file))
    assert [len(profile) for profile in profiles] == [4, 4, 4]
    assert profiles[0] != profiles[2]
    delta = WeightDelta.load(tmp_path / "adapter")
    (name,) = delta.updates
    weight = load_file(tmp_path / "trained" / "model.safetensors")[f"{name}.weight"]
    assert delta.matrix(name).shape == weight.shape
    assert torch.isfinite(delta.matrix(name)).all()
