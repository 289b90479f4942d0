"""EMMET (arXiv 2401.07453, 2403.14236): ROME's equality constraint for many facts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing.multi_layer import WeightedMultiLayerMethod
from lga_lightning.editing.presets import preset_for
from lga_lightning.exceptions import DataError, SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class EMMET(WeightedMultiLayerMethod):
    """Delta = R (K^T C~^-1 K + alpha I)^-1 K^T C~^-1 with C~ = lambda C: all keys get their values, exactly if alpha is 0.

    Args:
        moment_weight: Weight lambda of C; None for what is published for the model.
        alpha: Ridge that keeps the system solvable where keys are alike; only a batch of several requests has it.
        window: Number of layers that ``golden`` stands for.
        arguments: The other arguments of :class:`MultiLayerMethod`.
    """

    name = "EMMET"

    def __init__(
        self, moment_weight: float | None = None, alpha: float = 0.1, window: int = 1, **arguments: Any
    ) -> None:
        super().__init__(moment_weight=moment_weight, window=window, **arguments)
        if not alpha >= 0:
            raise SettingError(f"`alpha` must be at least 0, got {alpha}.")
        self.alpha = alpha

    def preset_weight(self, model: PreTrainedModel) -> float:
        """EMMET's lambda."""
        return preset_for(model).emmet_weight

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """ROME's layer; see :func:`preset_for`."""
        return [preset_for(model).rome_layer]

    def solve_update(self, model: PreTrainedModel, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(K^T C~^-1 K + alpha I)^-1 K^T C~^-1.

        Raises:
            DataError: If two keys are the same, and alpha is 0.
        """
        solved = self.weighted(model, layer, keys, earlier)
        inner = keys.double() @ solved.T
        if len(keys) > 1:
            inner += self.alpha * torch.eye(len(keys), dtype=torch.float64, device=keys.device)
        found, singular = torch.linalg.solve_ex(inner, solved)
        if singular:
            raise DataError(
                f"{self.name} at block {layer} is to give two of the facts edited together the same key, and with `alpha` {self.alpha:g} their "
                "values cannot both be met: the same fact twice, or two prompts that are the same up to the subject's end. Leave one "
                "out, edit them one after the other, or give `alpha` a number above 0 (0.1)."
            )
        return found

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        return {**super().settings(model), "alpha": self.alpha}
