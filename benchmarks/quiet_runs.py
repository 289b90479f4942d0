"""Trainers and messages of studies that make many runs, whose pages say what there is to say."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import lightning as L

from lga_lightning.cli import EXPECTED, TRAINER_DEFAULTS


def make_trainer(folder: Path, callback: L.Callback, accelerator: str = "auto") -> L.Trainer:
    """A trainer as the command line has it, on one device.

    Args:
        folder: Where results are left.
        callback: What collects them.
        accelerator: Where to compute, as Lightning names it.
    """
    return L.Trainer(
        **TRAINER_DEFAULTS,
        default_root_dir=folder,
        callbacks=[callback],
        accelerator=accelerator,
        devices=1,
        enable_progress_bar=sys.stdout.isatty(),
    )


def hush() -> None:
    """Leave out what is the same of every run."""
    warnings.filterwarnings("ignore", f".*({EXPECTED.pattern})")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
