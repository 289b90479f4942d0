"""Adam for many searches at once, some of which are through before others."""

from __future__ import annotations

import torch
from torch import Tensor


class RowAdam:
    """Adam (betas 0.9 and 0.999) on the rows of one tensor, each with a count of steps of its own.

    Args:
        parameters: Tensor [N, ...] that is changed in place.
        learning_rate: Step size.
    """

    def __init__(self, parameters: Tensor, learning_rate: float) -> None:
        self.parameters = parameters
        self.learning_rate = learning_rate
        self._moment, self._square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._steps = torch.zeros(len(parameters), dtype=torch.long, device=parameters.device)

    def step_(self, rows: Tensor, gradient: Tensor) -> None:
        """Move some rows.

        Args:
            rows: Indices of the rows, [M].
            gradient: Gradients of the rows, [M, ...].
        """
        self._steps[rows] += 1
        moment = 0.9 * self._moment[rows] + 0.1 * gradient
        square = 0.999 * self._square[rows] + 0.001 * gradient**2
        self._moment[rows], self._square[rows] = moment, square
        steps = self._steps[rows].to(gradient).view(-1, *[1] * (gradient.ndim - 1))
        root = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        self.parameters[rows] -= self.learning_rate * (moment / (1 - 0.9**steps)) / root
