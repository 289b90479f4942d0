"""MEMIT (arXiv 2210.07229): many facts at once, over a window of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.editing.multi_layer import WeightedMultiLayerMethod
from lga_lightning.editing.presets import preset_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MEMIT(WeightedMultiLayerMethod):
    """Least squares over what the layer knows (C) and the new facts: Delta = R K^T (lambda C + K K^T)^-1 (eq. 14).

    Takes the arguments of :class:`WeightedMultiLayerMethod`.
    """

    name = "MEMIT"

    def preset_weight(self, model: PreTrainedModel) -> float:
        """MEMIT's lambda."""
        return preset_for(model).memit_weight

    def solve_update(self, model: PreTrainedModel, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """K^T (C~ + K K^T)^-1 = (I + K^T C~^-1 K)^-1 K^T C~^-1: a system of n, not of d_in."""
        solved = self.weighted(model, layer, keys, earlier)
        inner = torch.eye(len(keys), dtype=torch.float64, device=keys.device) + keys.double() @ solved.T
        return torch.linalg.solve(inner, solved)
