"""The command line, a file a verb: LightningCLIs, and what they have in common. Help comes without them."""

import importlib
from typing import Any

_PLACES = {"EXPECTED": "app", "LGACLI": "edits", "TRAINER_DEFAULTS": "frozen", "run": "app"}

__all__ = ["EXPECTED", "LGACLI", "TRAINER_DEFAULTS", "run"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"lga_lightning.cli.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
