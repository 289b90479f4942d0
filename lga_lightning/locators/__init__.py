"""Layer locators: how to find the layer to edit."""

from lga_lightning.locators.base import Evidence, LayerLocator
from lga_lightning.locators.causal_tracing import CausalTracing
from lga_lightning.locators.fixed import FixedLayer, MiddleLayer
from lga_lightning.locators.layer_sweep import LayerSweep
from lga_lightning.locators.lga import LGA, PaperLGA

__all__ = ["LGA", "CausalTracing", "Evidence", "FixedLayer", "LayerLocator", "LayerSweep", "MiddleLayer", "PaperLGA"]
