"""PMET (arXiv 2308.08742): MEMIT with a target value that leaves to the attention what is the attention's."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from torch import nn

from lga_lightning.editing.memit import MEMIT
from lga_lightning.models.architecture import attention, edit_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PMET(MEMIT):
    """Optimises what to add to the outputs of the attention and of the MLP together, and writes the MLP's part alone.

    The residual of the MLP's output at the last layer is divided by the square root of the layers left (section 3).

    Takes the arguments of :class:`MEMIT`.
    """

    name = "PMET"

    def residual_divisor(self, left: int) -> float:
        """The square root of the layers left."""
        return sqrt(left)

    def intervention_modules(self, model: PreTrainedModel, layer: int) -> list[nn.Module]:
        """The attention and the MLP's out-projection."""
        return [attention(model, layer), edit_site(model, layer).module]
