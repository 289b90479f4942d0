"""Layer Gradient Analysis (Golden Layers and Where to Find Them, arXiv 2602.20207)."""

from __future__ import annotations

from lga_lightning.locators.aggregation import Aggregate
from lga_lightning.locators.gradients import GradientLocator, Loss, Statistic
from lga_lightning.models.architecture import Scope


class LGA(GradientLocator):
    """The paper's rule, exactly: S_l = sum_i <grad L(old_i | x_i), grad L(new_i | x_i)>, fences, argmax.

    For each request i, the inner product over the block's MLP weights of the gradients of the old and of the new answer's
    mean token NLL, added up signed over requests; layers outside the Tukey fences [Q1 - kappa IQR, Q3 + kappa IQR] are left
    out, and the highest score that is left is golden (section 4). The settings are ablations; the defaults are the paper's,
    and ``loss`` has both readings of L.

    Args:
        scope: Which parameters of a block count, as for :class:`GradientLocator`.
        kappa: Width of the fences; None for no fences.
        aggregate: How requests are added up, as for :class:`GradientLocator`.
        statistic: What is compared, as for :class:`GradientLocator`.
        neighbours: How many layers on either side share their evidence.
        loss: Over which tokens the loss is a mean: ``answer``, those of the answer, or ``text``, all of prompt and answer but the
            very first, as in a plain loss of a causal language model.
    """

    def __init__(
        self,
        scope: Scope = "mlp",
        kappa: float | None = 1.0,
        aggregate: Aggregate = "sum",
        statistic: Statistic = "dot",
        neighbours: int = 0,
        loss: Loss = "answer",
    ) -> None:
        super().__init__(scope, kappa, aggregate, statistic, neighbours, loss)
