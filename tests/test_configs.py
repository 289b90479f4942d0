"""Every committed configuration is one that the command line accepts, for every verb."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from lga_lightning.cli import run
from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME, AlphaEdit

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_is_accepted(path, verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga"])
    with pytest.raises(SystemExit) as stop:
        run([verb, "--config", str(path), "--print_config"])
    assert not stop.value.code
    printed, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    assert printed["model"].get("model_name") == written["model"].get("model_name", "smollm2-135m")
    assert printed["model"]["editor"]["class_path"].endswith(written["model"]["editor"]["class_path"])


def test_quickstart_says_where_it_differs_from_the_defaults():
    text = (ROOT / "configs" / "quickstart.yaml").read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for word in ("requests", "steps", "context", "magnitude"):
        assert word in comment


def test_every_method_has_a_file():
    named = {
        yaml.safe_load(path.read_text())["model"]["editor"]["class_path"]
        for path in (ROOT / "configs" / "editing").iterdir()
    }
    assert named == {kind.__name__ for kind in (AlphaEdit, EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME)}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "editing").iterdir()), ids=lambda path: path.stem)
def test_a_method_on_top_of_another_configuration(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga"])
    with pytest.raises(SystemExit) as stop:
        run(
            ["validate", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--config", str(path), "--print_config"]
        )
    assert not stop.value.code
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["editor"]["class_path"].endswith(
        yaml.safe_load(path.read_text())["model"]["editor"]["class_path"]
    )
    assert printed["data"]["limit"] == 48
