"""What an edit adds to one matrix: B A of a low rank, or a dense change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lga_lightning.exceptions import SettingError
from lga_lightning.utils.settings import check_at_least_one
from lga_lightning.utils.tensors import at_least_float32


class RankError(NamedTuple):
    """What a change of a lower rank lacks, relative to the whole.

    Attributes:
        frobenius: Frobenius norm of what is lacking over that of the whole.
        spectral: Largest singular value that is lacking over the largest of the whole: what an output can lose, at most.
    """

    frobenius: float = 0.0
    spectral: float = 0.0


class Update(ABC):
    """A change of one linear module's weight W [d_out, d_in]."""

    @property
    @abstractmethod
    def factors(self) -> tuple[Tensor, ...]:
        """Matrices whose product is the change, the first with d_out rows, the last with d_in columns."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """The rank that the change has room for."""

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """The change, [d_out, d_in]."""

    @abstractmethod
    def with_factors(self, *factors: Tensor) -> Update:
        """An update of the same kind.

        Args:
            factors: As many matrices as it has ``factors``.
        """

    def scaled(self, scale: float) -> Update:
        """The change times a number.

        Example:
            >>> LowRankUpdate(torch.ones(2, 1), torch.ones(1, 2)).scaled(0.5).matrix.sum()
            tensor(2.)
        """
        first, *rest = self.factors
        return self.with_factors(scale * first, *rest)

    def split(self, count: int) -> dict[int, Update]:
        """The change in parts of as many columns each, without those that are zero.

        Args:
            count: Number of parts.

        Returns:
            The parts by number.

        Example:
            >>> LowRankUpdate(torch.ones(2, 1), torch.tensor([[1.0, 2.0, 0.0, 0.0]])).split(2)
            {0: LowRankUpdate(2 x 2, rank 1)}
        """
        *first, last = self.factors
        parts = last.unflatten(1, (count, -1))
        present = parts.ne(0).any(2).any(0).nonzero().flatten().tolist()
        return {number: self.with_factors(*first, parts[:, number].contiguous()) for number in present}

    def inner(self, other: Update) -> float:
        """The inner product of two changes, the sum over the products of their entries; with itself the squared Frobenius norm.

        Args:
            other: A change of the same shape.
        """
        return torch.sum(self.matrix * other.matrix.to(self.matrix.device), dtype=torch.float64).item()

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    def __add__(self, other: Update) -> Update:
        """Both changes, on the device of this one: two of a low rank are joined along the rank, all others added up."""
        return DenseUpdate(self.matrix + other.matrix.to(self.matrix.device))

    def compact(self) -> Update:
        """The same change with no rank above d_out or d_in: the product of wider factors takes less room than they do."""
        return self

    def low_rank(self, rank: int) -> tuple[LowRankUpdate, RankError]:
        """The nearest change of a rank, by the largest singular values (Eckart and Young); the change itself if it has no higher one.

        Args:
            rank: Rank at most.

        Returns:
            That change, and what it lacks.

        Raises:
            SettingError: If ``rank`` is below 1.
        """
        check_at_least_one(rank=rank)
        matrix = self.matrix
        d_out, d_in = self.shape
        if rank < min(self.shape):
            left, sizes, right = torch.linalg.svd(at_least_float32(matrix), full_matrices=False)
            return _truncated(left, sizes, right, rank)
        unit = torch.eye(min(self.shape)).to(matrix)
        return LowRankUpdate(unit, matrix) if d_out <= d_in else LowRankUpdate(matrix, unit), RankError()

    def check_fits(self, name: str, d_out: int, d_in: int) -> None:
        """Refuse a module of another shape.

        Args:
            name: Qualified name of the module, for the message.
            d_out: Width of its output.
            d_in: Width of its input.

        Raises:
            ValueError: If the shapes differ.
        """
        if self.shape != (d_out, d_in):
            raise ValueError(
                f"The edit of {name} is {self.shape[0]} x {self.shape[1]}, but the module is {d_out} x {d_in}: the edit was "
                "made for another model. Load it with that model."
            )


@dataclass(frozen=True, eq=False, repr=False)
class LowRankUpdate(Update):
    """W <- W + B A.

    Attributes:
        b: B [d_out, r].
        a: A [r, d_in].

    Raises:
        ValueError: If B and A are no matrices, or do not fit each other.

    Example:
        >>> update = LowRankUpdate(torch.ones(4, 1), torch.ones(1, 6))
        >>> update + update
        LowRankUpdate(4 x 6, rank 2)
    """

    b: Tensor
    a: Tensor

    def __post_init__(self) -> None:
        if self.b.ndim != 2 or self.a.ndim != 2 or self.b.shape[1] != self.a.shape[0]:
            raise ValueError(
                f"Expected `b` [d_out, r] and `a` [r, d_in], got {list(self.b.shape)} and {list(self.a.shape)}."
            )

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """B and A."""
        return self.b, self.a

    def with_factors(self, *factors: Tensor) -> LowRankUpdate:
        """See :class:`Update`."""
        return LowRankUpdate(*factors)

    def split(self, count: int) -> dict[int, Update]:
        """See :class:`Update`; a part has no rank that its columns do not need."""
        parts = super().split(count).items()
        needed = {number: part.factors[1].ne(0).any(1) for number, part in parts}
        return {
            number: LowRankUpdate(self.b[:, needed[number]], part.factors[1][needed[number]]) for number, part in parts
        }

    def inner(self, other: Update) -> float:
        """See :class:`Update`; <B A, D> = <B, D A^T>, and no product B A is ever taken."""
        product = self.a.T.double()
        for factor in reversed(other.factors):
            product = factor.to(product) @ product
        return torch.sum(self.b * product).item()

    @property
    def rank(self) -> int:
        """The number of columns of B."""
        return self.a.shape[0]

    @property
    def matrix(self) -> Tensor:
        """B A."""
        with torch.autocast(self.b.device.type, enabled=False):  # it is what is written into weights
            return self.b @ self.a

    def __add__(self, other: Update) -> Update:
        """See :class:`Update`."""
        if not isinstance(other, LowRankUpdate):
            return super().__add__(other)
        b, a = other.b.to(self.b.device), other.a.to(self.a.device)
        return LowRankUpdate(torch.cat([self.b, b], 1), torch.cat([self.a, a], 0))

    def compact(self) -> Update:
        """See :class:`Update`; the factor of the narrower side becomes the identity."""
        rows, columns = self.shape
        if self.rank <= min(rows, columns):
            return self
        eye = torch.eye(min(rows, columns)).to(self.b)
        return LowRankUpdate(eye, self.matrix) if rows <= columns else LowRankUpdate(self.matrix, eye)

    def low_rank(self, rank: int) -> tuple[LowRankUpdate, RankError]:
        """See :class:`Update`; the factors are never multiplied out where they are narrow."""
        if self.rank <= rank:
            return self, RankError()
        if self.rank >= min(self.shape):
            return super().low_rank(rank)
        check_at_least_one(rank=rank)
        (left, upper), (right, lower) = (torch.linalg.qr(at_least_float32(x)) for x in (self.b, self.a.T))
        inner, sizes, outer = torch.linalg.svd(upper @ lower.T)
        return _truncated(left @ inner, sizes, outer @ right.T, rank)

    def padded(self, rank: int) -> LowRankUpdate:
        """The same change, with columns and rows of zeros behind.

        Args:
            rank: Rank that it is to have; at least its own.

        Raises:
            SettingError: If it has a higher one.
        """
        if rank < self.rank:
            raise SettingError(f"`rank` is {rank}, and the edit has rank {self.rank}. Fold it first (`max_rank`).")
        more = rank - self.rank
        return LowRankUpdate(functional.pad(self.b, (0, more)), functional.pad(self.a, (0, 0, 0, more)))

    def __repr__(self) -> str:
        return f"LowRankUpdate({self.shape[0]} x {self.shape[1]}, rank {self.rank})"


@dataclass(frozen=True, eq=False, repr=False)
class DenseUpdate(Update):
    """W <- W + the whole change.

    Attributes:
        change: Change [d_out, d_in].

    Raises:
        ValueError: If it is no matrix.
    """

    change: Tensor

    def __post_init__(self) -> None:
        if self.change.ndim != 2:
            raise ValueError(f"Expected `change` [d_out, d_in], got {list(self.change.shape)}.")

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The change alone."""
        return (self.change,)

    def with_factors(self, *factors: Tensor) -> DenseUpdate:
        """See :class:`Update`."""
        return DenseUpdate(*factors)

    @property
    def rank(self) -> int:
        """The number of rows."""
        return self.change.shape[0]

    @property
    def matrix(self) -> Tensor:
        """The change."""
        return self.change

    def __repr__(self) -> str:
        return f"DenseUpdate({self.shape[0]} x {self.shape[1]})"


def _truncated(left: Tensor, sizes: Tensor, right: Tensor, rank: int) -> tuple[LowRankUpdate, RankError]:
    """The first part of a singular value decomposition, and what it lacks."""
    roots, tiny = sizes[:rank].sqrt(), torch.finfo(sizes.dtype).tiny
    frobenius = sizes[rank:].norm() / sizes.norm().clamp_min(tiny)
    spectral = sizes[rank] / sizes[0].clamp_min(tiny)
    factors = LowRankUpdate(left[:, :rank] * roots, roots.unsqueeze(1) * right[:rank])
    return factors, RankError(frobenius.item(), spectral.item())
