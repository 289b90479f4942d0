"""A comparison's tables and picture, with names that mean something to a terminal, to Markdown and to a picture."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lga_lightning.reports.comparison import leave_comparison, regret_sheets
from lga_lightning.results.comparison import Comparison
from tests.helpers.results import comparison

pytestmark = pytest.mark.usefixtures("pictures")

NAME = "mine [/red] [1, 2] | $x_{$ :smile:"


def test_names_are_taken_for_what_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = comparison(model="m [bold] | <b>", name=NAME, data="d [/blue]")
    leave_comparison(result, tmp_path)
    said = capsys.readouterr().out
    assert NAME in said
    assert "proxies of d [/blue], judged on 20 tests of d [/blue]" in said
    assert "50.0" in said
    assert "40…60" in said  # the interval, under its number
    text = (tmp_path / "comparison.md").read_text()
    assert "# Locators compared on m \\[bold\\] \\| &lt;b&gt;\n" in text
    row = next(line for line in text.splitlines() if line.startswith("| mine"))
    assert row.replace("\\|", "").count("|") == 10  # nine cells
    assert "50.0 [40.0, 60.0]" in row
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert Comparison.load(tmp_path) == result


@pytest.mark.parametrize("other", [50.0, math.nan], ids=["sweep", "candidates"])
def test_speed_ups_are_over_a_sweep_at_all_layers(other):
    result = comparison()
    sweep, row = replace(result.sweeps[0], scores=[52.0, other], own_layer=None), result.rows[0]
    rows = [replace(row, speed_up=speed_up) for speed_up in (1234.4, 9.94, 0.2)]
    (sheet,) = regret_sheets(replace(result, sweeps=[sweep], rows=rows))
    own = "" if math.isnan(other) else "1x"
    assert [cells[-1] for cells in sheet.rows] == ["1,234x", "9.9x", "0.2x", own, own]
    assert ("Speed-up: over a sweep at all layers, reckoned from these" in sheet.note) is math.isnan(other)
