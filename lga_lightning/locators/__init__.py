"""Layer locators: how to find the layer to edit."""

from lga_lightning.locators.base import Evidence, LayerLocator
from lga_lightning.locators.causal_tracing import CausalTracing
from lga_lightning.locators.fixed import FixedLayer, MiddleLayer
from lga_lightning.locators.forecast import EditForecast
from lga_lightning.locators.gradients import GradientLocator
from lga_lightning.locators.layer_sweep import LayerSweep
from lga_lightning.locators.lga import LGA
from lga_lightning.locators.value_gradient import ValueGradient

__all__ = [
    "LGA",
    "CausalTracing",
    "EditForecast",
    "Evidence",
    "FixedLayer",
    "GradientLocator",
    "LayerLocator",
    "LayerSweep",
    "MiddleLayer",
    "ValueGradient",
]
