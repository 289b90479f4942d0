"""Mean and spread of vectors that come in groups, kept exactly without keeping the vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps
"""What is added to a standard deviation before it divides, as in UltraEdit's public code."""
FLOOR = 1e-6
"""Smallest eigenvalue of a covariance that whitens, relative to the largest; in StableEdit's code it is absolute."""


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """Mean and scatter of n vectors, which add up with those of others (Chan et al., 1979; UltraEdit, section 3.3).

    Attributes:
        count: Number n of vectors.
        mean: Their mean, [d] in float64.
        scatter: Sums of the squared deviations from it, [d]; or of the deviations' outer products, [d, d], to whiten with.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0], [6.0]])
        >>> both = RunningStatistics.of(rows[:1]) + RunningStatistics.of(rows[1:])
        >>> both.count, both.mean.tolist(), both.scatter.tolist()
        (3, [3.0], [14.0])
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor, whole: bool = False) -> RunningStatistics:
        """Those of vectors.

        Args:
            rows: n vectors, [n, d], at least one.
            whole: Whether to keep the outer products as well.
        """
        rows = rows.double()
        mean = rows.mean(0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred if whole else centred.square().sum(0))

    def __add__(self, other: RunningStatistics) -> RunningStatistics:
        """Those of both sets of vectors together, on the device of the other one."""
        count, mean, scatter = self.count + other.count, self.mean.to(other.mean), self.scatter.to(other.scatter)
        gap = other.mean - mean
        moved = torch.outer(gap, gap) if self.scatter.ndim == 2 else gap.square()
        return RunningStatistics(
            count,
            mean + gap * (other.count / count),
            scatter + other.scatter + moved * (self.count * other.count / count),
        )

    @property
    def whitens(self) -> bool:
        """Whether the whole covariance can be told: outer products are kept, of more than d + 1 vectors."""
        return self.scatter.ndim == 2 and self.count > len(self.mean) + 1

    def normalise(self, rows: Tensor) -> Tensor:
        """Vectors less the mean, in units of the spread.

        Args:
            rows: Vectors [..., d].

        Returns:
            [..., d] in float64: each entry over its standard deviation; where the covariance S can be told, times S^-1/2 instead,
            S = scatter / (n - d - 1) as in StableEdit.
        """
        centred = rows.double() - self.mean
        if self.whitens:
            values, vectors = torch.linalg.eigh(self.scatter / (self.count - len(self.mean) - 1))
            scale = values.clamp_min(FLOOR * values[-1].clamp_min(torch.finfo(values.dtype).tiny)).rsqrt()
            return centred @ (vectors * scale) @ vectors.T
        squared = self.scatter.diagonal() if self.scatter.ndim == 2 else self.scatter
        return centred / ((squared / (self.count - 1)).sqrt() + EPSILON)
