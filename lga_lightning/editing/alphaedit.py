"""AlphaEdit (arXiv 2410.02355): updates that leave alone what the layer's usual keys give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.multi_layer import MultiLayerMethod
from lga_lightning.editing.presets import preset_for
from lga_lightning.editing.target_value import TargetValues
from lga_lightning.exceptions import DataError, SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class AlphaEdit(MultiLayerMethod):
    """Delta^T solves (P (K K^T + Kp Kp^T) + L2 I) Delta^T = P K R^T (section 3.3, eq. 14).

    P projects on the singular vectors of C with small singular values; Kp are the keys of the editing session's earlier edits.

    Args:
        threshold: Bound below which singular values of C span what may change.
        l2: Weight of |Delta|^2; None for what is published for the model.
        arguments: Arguments of :class:`MultiLayerMethod`.
    """

    name = "AlphaEdit"
    keeps_history = True

    def __init__(self, threshold: float = 0.02, l2: float | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not threshold > 0 or (l2 is not None and not l2 > 0):
            raise SettingError(f"`threshold` and `l2` must be above 0, got {threshold} and {l2}.")
        if self.covariance.source == "identity":
            raise SettingError(
                "AlphaEdit protects what the second moment of the keys spans, and with `second_moment: identity` nothing is "
                "left to change. Give `bundled`, a text, or `sampled`."
            )
        self.threshold = threshold
        self._l2 = l2

    def l2(self, model: PreTrainedModel) -> float:
        """Weight of |Delta|^2."""
        return preset_for(model).alphaedit_l2 if self._l2 is None else self._l2

    def solve_update(self, model: PreTrainedModel, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """K^T P (K K^T P + L2 I)^-1 = (K^T P K + L2 I)^-1 K^T P: a system of n, not of d_in; earlier keys are among K."""
        every = keys.double() if earlier is None else torch.cat([keys.double(), earlier.double()])
        free = self.covariance.project(model, layer, every, self.threshold)
        inner = free @ free.T + self.l2(model) * torch.eye(len(every), dtype=torch.float64, device=keys.device)
        return torch.linalg.solve(inner, free)[: len(keys)]

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[TargetValues],
        layers: Sequence[int],
        history: dict[Any, Any] | None = None,
    ) -> list[WeightDelta]:
        """An update of every layer for each group; see :class:`EditMethod`. A layer without null space stays as it is.

        Raises:
            DataError: If no layer has a null space.
        """
        deltas = super().write(model, tokenizer, groups, layers, history)
        if not any(self.covariance.free_vectors(model, layer, self.threshold).shape[1] for layer in layers):
            raise DataError(
                f"No singular value of the second moments of the blocks {[*layers]} is below the threshold {self.threshold:g}, so nothing may "
                "change there. Raise --model.editor.threshold, or edit other layers."
            )
        return deltas

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        return {**super().settings(model), "threshold": self.threshold, "l2": self.l2(model)}
