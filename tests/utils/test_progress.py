"""Bars for what takes long, and only where somebody looks on."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console
from rich.file_proxy import FileProxy

from lga_lightning.utils import progress


@pytest.mark.parametrize(
    ("patience", "terminal", "shown"), [(0.0, True, True), (60.0, True, False), (0.0, False, False)]
)
def test_a_bar_for_those_who_wait_at_a_terminal(patience, terminal, shown, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", patience)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(progress.with_bar(range(3), "Scoring")) == [0, 1, 2]
    assert ("Scoring" in capsys.readouterr().err) is shown


def test_no_bar_within_a_bar_of_rich(monkeypatch):
    assert progress.hidden() is None
    monkeypatch.setattr(sys, "stderr", FileProxy(Console(), sys.stderr))
    assert progress.hidden() is True
