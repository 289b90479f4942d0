"""SIGTERM ends a program, whoever has put a handler in front, and says so."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from lga_lightning.cli.frozen import EndsAtOnce
from lga_lightning.utils.signals import interruptible


@pytest.mark.parametrize("hook", ["on_train_start", "on_validation_start", "on_predict_start"])
@pytest.mark.parametrize("has_come", [True, False])
def test_a_signal_that_came_while_lightning_had_it_ends_the_run(hook, has_come, capsys):
    before = signal.getsignal(signal.SIGTERM)
    code = None
    try:
        with interruptible():
            signal.signal(signal.SIGTERM, lambda *_: None)  # Lightning's, which takes it for a success
            getattr(EndsAtOnce(), hook)(SimpleNamespace(received_sigterm=has_come), None)
    except SystemExit as end:
        code = end.code
    assert code == (128 + signal.SIGTERM if has_come else None)
    assert ("ended by SIGTERM" in capsys.readouterr().err) is has_come
    assert signal.getsignal(signal.SIGTERM) is before
