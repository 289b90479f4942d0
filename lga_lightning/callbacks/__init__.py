"""Callbacks: those of ``LGAModule``, which join by themselves, and those for training runs that you already have."""

from lga_lightning.callbacks.adapter_writer import AdapterWriter
from lga_lightning.callbacks.apply_edits import ApplyEdits
from lga_lightning.callbacks.edit_report import EditReport
from lga_lightning.callbacks.layer_attribution import LayerAttribution
from lga_lightning.callbacks.score_collector import ScoreCollector

__all__ = ["AdapterWriter", "ApplyEdits", "EditReport", "LayerAttribution", "ScoreCollector"]
