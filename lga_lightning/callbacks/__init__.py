"""Callbacks: for ``lga fit`` and ``lga validate``, and for pipelines that you already have."""

from lga_lightning.callbacks.adapters import AdapterWriter
from lga_lightning.callbacks.apply import ApplyEdits
from lga_lightning.callbacks.attribution import LayerAttribution
from lga_lightning.callbacks.edits import EditReport

__all__ = ["AdapterWriter", "ApplyEdits", "EditReport", "LayerAttribution"]
