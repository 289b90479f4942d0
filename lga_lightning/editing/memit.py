"""MEMIT (arXiv 2210.07229): many facts at once, over a window of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing.published import published_for
from lga_lightning.editing.spread import Spread
from lga_lightning.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MEMIT(Spread):
    """Least squares over what the layer knows (C) and the new facts: Delta = R K^T (lambda C + K K^T)^-1 (eq. 14).

    Args:
        moment_weight: lambda, the weight of C; None for what is published for the model.
        arguments: Those of :class:`Spread`.
    """

    name = "MEMIT"

    def __init__(self, moment_weight: float | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        if moment_weight is not None and not moment_weight > 0:
            raise SettingError(f"`moment_weight` must be above 0, got {moment_weight}.")
        self._moment_weight = moment_weight

    def moment_weight(self, model: PreTrainedModel) -> float:
        """The weight of C, lambda."""
        return published_for(model).memit_weight if self._moment_weight is None else self._moment_weight

    def closed_form(self, model: PreTrainedModel, layer: int, keys: Tensor, memory: Tensor | None) -> Tensor:
        """K^T (lambda C + K K^T)^-1 = (I + K^T C~^-1 K)^-1 K^T C~^-1 with C~ = lambda C: a system of n, not of d_in."""
        solved = self.second_moment.solve(model, layer, keys.double()) / self.moment_weight(model)
        inner = torch.eye(len(keys), dtype=torch.float64, device=keys.device) + keys.double() @ solved.T
        return torch.linalg.solve(inner, solved)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Name and settings, for result files."""
        return {**super().settings(model), "moment_weight": self.moment_weight(model)}
