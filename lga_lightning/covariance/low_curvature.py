"""The directions of a matrix along which a text's loss hardly bends, and projections on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lga_lightning.covariance.curvature import Curvature


@dataclass(frozen=True)
class LowCurvature:
    """What is left of a matrix's gradients without the components of high curvature (CrispEdit, arXiv 2602.15823).

    In the eigenvectors U_A and U_B of K-FAC's factors, the component j, i of a gradient has the curvature b_j a_i. The highest ones
    that add up to the share ``energy`` of all curvature are taken out.

    Attributes:
        keys: U_A, the eigenvectors of A in columns, those of large eigenvalues first, [d_in, d_in].
        gradients: U_B, those of B, [d_out, d_out].
        kept: Which components are left, [d_out, d_in]. In every row and in every column those that are not come first.
    """

    keys: Tensor
    gradients: Tensor
    kept: Tensor

    @classmethod
    def of(cls, curvature: Curvature, energy: float, like: Tensor) -> LowCurvature:
        """The directions that a curvature leaves.

        Args:
            curvature: The curvature.
            energy: Share of it that is taken out, from 0 to 1.
            like: A tensor of the dtype and on the device of the gradients. The eigenvectors are found in float64.
        """
        a, keys = _eigenvectors(curvature.keys.to(like.device))
        b, gradients = _eigenvectors(curvature.gradients.to(like.device))
        products = torch.outer(b, a)
        ordered = products.flatten().sort(descending=True).values
        before = int((ordered.cumsum(0) < energy * ordered.sum()).sum())
        threshold = ordered[min(before, len(ordered) - 1)]  # the component with which the share is reached
        return cls(keys.to(like.dtype), gradients.to(like.dtype), (products < threshold) | (products == 0))

    def __call__(self, gradient: Tensor) -> Tensor:
        """The part of gradients [..., d_out, d_in] of a matrix that is left."""
        components = self.gradients.T @ gradient @ self.keys
        return self.gradients @ (components * self.kept) @ self.keys.T

    def removed(self, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """What is taken out of gradients that are known as sums over tokens, sum_t g_t k_t^T, of as low a rank as the mask allows.

        What is not kept is a staircase in the corner of large eigenvalues. Its first rows, and the first columns of what is below
        them, cover it: vectors p, q with sum_r p_r q_r^T.

        Args:
            inputs: k, [B, T, d_in].
            gradients: g, [B, T, d_out].

        Returns:
            p [B, R, d_out] and q [B, R, d_in]; the products p_r q_r^T are orthogonal to each other.
        """
        taken = ~self.kept
        widths = torch.cat([taken.sum(1), taken.new_zeros(1, dtype=torch.long)])
        rows = int((widths + torch.arange(len(widths), device=widths.device)).argmin())
        columns = int(widths[rows])
        keys, outputs = inputs @ self.keys, gradients @ self.gradients
        upper = outputs[..., :rows].mT @ keys * taken[:rows]
        lower = outputs.mT @ keys[..., :columns] * taken[:, :columns]
        lower[:, :rows] = 0
        count = len(inputs)
        p = [self.gradients[:, :rows].T.expand(count, -1, -1), (self.gradients @ lower).mT]
        q = [upper @ self.keys.T, self.keys[:, :columns].T.expand(count, -1, -1)]
        return torch.cat(p, 1), torch.cat(q, 1)


def _eigenvectors(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, at least 0, and eigenvectors in columns, the largest first."""
    values, vectors = torch.linalg.eigh(moment)
    return values.flip(0).clamp_min(0), vectors.flip(1)
