"""Editing methods, and edits as data."""

from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.delta import WeightDelta, attached
from lga_lightning.editing.rome import ROME, RROME

__all__ = ["ROME", "RROME", "EditMethod", "WeightDelta", "attached"]
