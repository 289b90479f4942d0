"""The code of every notebook runs, from its first cell to its last; what is stored in it is of one whole run."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
SAYS = {"1": "golden layer", "2": "restored: True", "3": "knows", "4": "best fixed layer"}
"""A part of what each prints."""


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.embedded
@pytest.mark.usefixtures("embedded_package")
@EVERY_NOTEBOOK
def test_it_runs(path, capsys, monkeypatch):
    monkeypatch.setenv("LGA_SMALL", "1")
    drawn: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(len(plt.get_fignums())))
    names: dict = {}
    with mpl.rc_context({"backend": "agg"}):
        for number, cell in enumerate(code_cells(path), start=1):
            exec(compile("".join(cell["source"]), f"{path.stem}, code cell {number}", "exec"), names)
        plt.close("all")
    assert SAYS[path.stem[0]] in capsys.readouterr().out
    assert all(drawn)
    assert drawn


@EVERY_NOTEBOOK
def test_what_is_stored_is_of_one_run(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    texts = ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]
    assert len(texts) == len(set(texts))  # nothing twice
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "/home/" not in json.dumps(outputs)
