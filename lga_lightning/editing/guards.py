"""Guards: what an edit, of whatever method, must spare of the unedited weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.in_place import unedited_weight, update_in_place
from lga_lightning.editing.updates import Update
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site, named_site
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.per_model import PerModel
from lga_lightning.utils.settings import ShowsSettings
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Side = Literal["input", "output", "both"]


class Guard(ShowsSettings, ABC):
    """Changes an edit before it is made, matrix by matrix. A low rank stays as low."""

    def prepare(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        """Have at hand what guarding the out-projections of some layers needs; :meth:`apply` sees to it by itself.

        Args:
            model: A causal language model.
            layers: Indices of blocks.
        """

    @abstractmethod
    def apply_at(self, model: PreTrainedModel, site: EditSite, update: Update) -> Update:
        """What is left of the change of one matrix.

        Args:
            model: A causal language model, with the edits before this one in place; it is not changed.
            site: The module.
            update: The change that a method asks for.
        """

    def apply(self, model: PreTrainedModel, delta: WeightDelta) -> WeightDelta:
        """What is left of an edit.

        Args:
            model: A causal language model, with the edits before this one ``applied``; it is not changed.
            delta: The edit that a method asks for.
        """
        updates = delta.updates.items()
        return WeightDelta({name: self.apply_at(model, named_site(model, name), update) for name, update in updates})

    def expect(
        self, model: PreTrainedModel, site: EditSite, changes: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is left of expected edits dW = sum_r p_r q_r^T of B requests, for a forecast; by default all of it.

        Args:
            model: A causal language model.
            site: The module.
            changes: Vectors p, [B, R, d_out].
            directions: Vectors q, [B, R, d_in].

        Returns:
            The same two, of the same shapes. The directions must not depend on the changes.
        """
        return changes, directions

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The guard's name and everything that edits depend on, for result files."""


class NormGuard(Guard):
    """A bound of the change of each matrix relative to the unedited weight: |dW|_F <= limit |W|_F, over all edits in place.

    An edit that would pass the bound is scaled by the largest s in [0, 1] that keeps the sum of all edits within it; the earlier edits stay
    as they are. So what a run writes near the bound gets smaller and smaller: the facts that come then are edited less, or not.

    The aim is that of norm-anchor scaling (NAS, arXiv 2602.02543), whose means are others: there each target value is rescaled to
    a norm of the unedited model before an update is solved for. Here the finished update is scaled, whatever found it.

    Args:
        limit: Largest relative change.
    """

    def __init__(self, limit: float = 0.05) -> None:
        if not (limit > 0 and isfinite(limit)):
            raise SettingError(f"`limit` of NormGuard is a share of the weight's norm, above 0, got {limit}.")
        self.limit = limit

    def apply_at(self, model: PreTrainedModel, site: EditSite, update: Update) -> Update:
        """The change, scaled; see :class:`Guard`."""
        earlier = update_in_place(model, site.name)
        bound, size = self._bound(model, site), update.inner(update)
        overlap = 0.0 if earlier is None else earlier.inner(update)
        left = bound**2 - (0.0 if earlier is None else earlier.inner(earlier))
        if size + 2 * overlap <= left:
            return update
        return update.scaled(_largest_step(size, overlap, left))

    def expect(
        self, model: PreTrainedModel, site: EditSite, changes: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The changes, scaled; see :class:`Guard`."""
        squares = (changes @ changes.mT * (directions @ directions.mT)).sum((1, 2))
        sizes = squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
        return changes * (self._bound(model, site) / sizes).clamp_max(1).view(-1, 1, 1), directions

    def settings(self) -> dict[str, Any]:
        """The name and the limit."""
        return {"name": "NormGuard", "limit": self.limit}

    def _bound(self, model: PreTrainedModel, site: EditSite) -> float:
        weight = unedited_weight(model, site)
        return self.limit * torch.linalg.vector_norm(weight, dtype=torch.float64).item()


class SingularGuard(Guard):
    """Keeps edits off the singular directions in which a weight is large: dW <- (I - s U U^T) dW (I - s V V^T).

    U and V hold the first k left and right singular vectors of the unedited weight, k the smallest number with the share ``energy`` of
    its squared singular values. On both sides with s = 1 it leaves out every part of dW that has to do with one of these
    directions, after REVIVE (arXiv 2601.11042, which has no public code). On the input side alone with s = 0.5 it is a soft projection as SPHERE's
    (arXiv 2510.01172), which takes the directions from the weight with its rows scaled to length 1, and projects each layer's update
    before the next layer's is solved for. Here both is done on the finished edit, by the weight as it is.

    Args:
        energy: Share of the squared singular values that is spared.
        side: The side on which edits are projected: ``input`` (V alone), ``output`` (U alone), or ``both``.
        strength: What is taken away of the parts along these directions, s: 1 for all of them.
    """

    def __init__(self, energy: float = 0.5, side: Side = "both", strength: float = 1.0) -> None:
        if not 0 < energy < 1:
            raise SettingError(
                f"`energy` of SingularGuard is the share of the squared singular values that is spared, above 0 and below 1, got {energy}."
            )
        if side not in get_args(Side):
            raise SettingError(f"`side` of SingularGuard must be one of {list(get_args(Side))}, got {side!r}.")
        if not 0 < strength <= 1:
            raise SettingError(f"`strength` of SingularGuard must be above 0 and at most 1, got {strength}.")
        self.energy, self.side, self.strength = energy, side, strength
        self._directions: PerModel[dict[str, tuple[Any, tuple[Tensor, Tensor]]]] = PerModel()

    def prepare(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        """Find the singular directions of the layers' out-projections."""
        for layer in layers:
            self.directions(model, edit_site(model, layer))

    def directions(self, model: PreTrainedModel, site: EditSite) -> tuple[Tensor, Tensor]:
        """Left and right singular vectors that are spared; found once a model and matrix, and anew where the weight has become another.

        Args:
            model: A causal language model.
            site: The module.

        Returns:
            U [d_out, k] and V [d_in, k].
        """
        found, mark = self._directions.setdefault(model, {}), _mark(model, site)
        if site.name not in found or found[site.name][0] != mark:
            found[site.name] = mark, singular_directions(unedited_weight(model, site), self.energy)
        return found[site.name][1]

    def apply_at(self, model: PreTrainedModel, site: EditSite, update: Update) -> Update:
        """The change, projected; see :class:`Guard`."""
        left, right = self.directions(model, site)
        first, *rest = update.factors
        factors = [self._spare_outputs(first.mT, left).mT, *rest]
        factors[-1] = self._spare_inputs(factors[-1], right)
        return update.with_factors(*factors)

    def expect(
        self, model: PreTrainedModel, site: EditSite, changes: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both, projected; see :class:`Guard`."""
        left, right = self.directions(model, site)
        return self._spare_outputs(changes, left), self._spare_inputs(directions, right)

    def settings(self) -> dict[str, Any]:
        """The name and the settings."""
        return {"name": "SingularGuard", "energy": self.energy, "side": self.side, "strength": self.strength}

    def _spare_outputs(self, rows: Tensor, left: Tensor) -> Tensor:
        """Rows [..., d_out] off U."""
        return rows if self.side == "input" else self._spare(rows, left)

    def _spare_inputs(self, rows: Tensor, right: Tensor) -> Tensor:
        """Rows [..., d_in] off V."""
        return rows if self.side == "output" else self._spare(rows, right)

    def _spare(self, rows: Tensor, directions: Tensor) -> Tensor:
        directions = directions.to(rows)
        return rows - self.strength * (rows @ directions) @ directions.T


def _mark(model: PreTrainedModel, site: EditSite) -> tuple[float, float] | None:
    """What tells a module's unedited weight from another in its place; None where nothing is ever written into it."""
    if not site.is_writable:
        return None
    weight = unedited_weight(model, site)
    return weight.sum(dtype=torch.float64).item(), torch.linalg.vector_norm(weight, dtype=torch.float64).item()


def singular_directions(weight: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """The first singular vectors of a matrix: as few as have a share of its squared singular values.

    They are found in float64, by the smaller one of W W^T and W^T W.

    Args:
        weight: W [d_out, d_in].
        energy: The share, above 0.

    Returns:
        Left [d_out, k] and right [d_in, k] vectors, in float32 or better.

    Example:
        >>> left, right = singular_directions(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 0.9)
        >>> left.abs().argmax(0), right.shape
        (tensor([1, 2]), torch.Size([3, 2]))
    """
    matrix = weight.detach().double()
    narrow = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares, vectors = torch.linalg.eigh(narrow @ narrow.T)
    squares, vectors = squares.flip(0).clamp_min(0), vectors.flip(1)
    count = int((squares.cumsum(0) - squares < energy * squares.sum()).sum())
    near = vectors[:, :count]
    far = functional.normalize(narrow.T @ near, dim=0)
    like = at_least_float32(weight.detach()[:0])
    left, right = (near, far) if narrow is matrix else (far, near)
    return left.to(like), right.to(like)


def _largest_step(size: float, overlap: float, left: float) -> float:
    """The largest s in [0, 1] with s^2 size + 2 s overlap <= left; 0 where there is none."""
    root = overlap**2 + size * left
    if root <= 0 or size == 0:
        return 0.0
    step = left / (sqrt(root) + overlap) if overlap > 0 else (sqrt(root) - overlap) / size
    return min(1.0, max(0.0, step))
