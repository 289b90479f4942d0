"""How strongly the new answer pulls at the value that an edit would set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lga_lightning.locators.aggregation import Aggregate
from lga_lightning.locators.gradients import GradientLocator

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ValueGradient(GradientLocator):
    """Scores a block by |dL(new)/dv|, v the output of its out-projection at the subject's last token.

    That is what an edit sets. Each request's scores are divided by their sum over the layers, and a layer shares its
    neighbours' evidence. A rule of this project, not of a paper: it was chosen on development data of two small models
    (``docs/locators.md``). The old answer does not enter the score.

    Args:
        kappa: Width of the Tukey fences, in interquartile ranges; None for no fences.
        aggregate: How requests are added up, as for :class:`GradientLocator`.
        neighbours: A layer's contributions are the means over it and so many layers on either side.
    """

    def __init__(self, kappa: float | None = 1.0, aggregate: Aggregate = "normalised", neighbours: int = 1) -> None:
        super().__init__("value", kappa, aggregate, "new_norm", neighbours)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Scope and statistic; the loss is always that of the answer."""
        return {"scope": self.scope, "statistic": self.statistic}
