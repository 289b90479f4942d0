"""The priors that people use today: a layer from somebody's configuration file, or the middle one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import SettingError
from lga_lightning.locators.base import Evidence, LayerLocator
from lga_lightning.models.architecture import blocks, check_layer
from lga_lightning.models.likelihood import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class FixedLayer(LayerLocator):
    """Picks a given layer, whatever the requests: it scores 1, the others 0.

    The model is not run, so every request counts as known.

    Args:
        layer: Index of the block, from 0.
    """

    uses_requests = False
    needs_subject = False

    def __init__(self, layer: int) -> None:
        super().__init__(kappa=None, aggregate="mean")
        if layer < 0:
            raise SettingError(f"`layer` must be at least 0, got {layer}.")
        self.layer = layer

    def chosen(self, model: PreTrainedModel) -> int:
        """The layer for a model.

        Raises:
            LayerError: If the model has no such block.
        """
        return check_layer(model, self.layer)

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Values [B, 1, L]: 1 at the layer, 0 elsewhere."""
        values = torch.zeros(len(requests), 1, len(blocks(model)), device=input_device(model))
        values[..., self.chosen(model)] = 1
        return Evidence(values, known=torch.ones(len(requests), dtype=torch.bool, device=values.device))

    def settings(self, model: PreTrainedModel) -> dict[str, int]:
        """The layer."""
        return {"layer": self.layer}


class MiddleLayer(FixedLayer):
    """Picks the middle layer, L // 2 of L."""

    def __init__(self) -> None:
        super().__init__(layer=0)

    def chosen(self, model: PreTrainedModel) -> int:
        """L // 2."""
        return len(blocks(model)) // 2

    def settings(self, model: PreTrainedModel) -> dict[str, int]:
        """There are none."""
        return {}
