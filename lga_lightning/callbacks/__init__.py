"""Callbacks: for ``lga fit`` and ``lga validate``, and for pipelines that you already have."""

from lga_lightning.callbacks.adapter_writer import AdapterWriter
from lga_lightning.callbacks.apply_edits import ApplyEdits
from lga_lightning.callbacks.edit_report import EditReport
from lga_lightning.callbacks.layer_attribution import LayerAttribution

__all__ = ["AdapterWriter", "ApplyEdits", "EditReport", "LayerAttribution"]
