"""Layer locators: how to find the layer to edit."""

from lga_lightning.locators.base import Evidence, LayerLocator
from lga_lightning.locators.lga import LGA

__all__ = ["LGA", "Evidence", "LayerLocator"]
