"""Every committed configuration is one that the command line accepts, for every verb."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from lga_lightning.cli import run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("verb", ["fit", "validate"])
@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_is_accepted(path, verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga"])
    with pytest.raises(SystemExit) as stop:
        run([verb, "--config", str(path), "--print_config"])
    assert not stop.value.code
    printed, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    assert printed["model"]["model_name"] == written["model"]["model_name"]
    assert printed["model"]["editor"]["class_path"].endswith(written["model"]["editor"]["class_path"])


def test_quickstart_says_where_it_differs_from_the_defaults():
    text = (ROOT / "configs" / "quickstart.yaml").read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for word in ("requests", "steps", "context", "magnitude"):
        assert word in comment
