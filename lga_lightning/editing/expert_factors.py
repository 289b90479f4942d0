"""Updates of experts in the layout in which PEFT adapts a fused parameter: the factors of all its experts, of one rank, in two matrices."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lga_lightning.editing.updates import LowRankUpdate


def join_experts(updates: Mapping[int, LowRankUpdate], count: int, rank: int) -> tuple[Tensor, Tensor]:
    """One B and one A for all experts of a block, zero for those that are not edited.

    Args:
        updates: Updates of some of the block's experts, by number.
        count: Number of experts, E.
        rank: Rank that each expert gets room for.

    Returns:
        B [d_out, rank E], the experts running fastest, and A [E rank, d_in].
    """
    like = next(iter(updates.values()))
    d_out, d_in = like.shape
    b, a = like.a.new_zeros(d_out, rank, count), like.a.new_zeros(count, rank, d_in)
    for number, update in updates.items():
        b[:, : update.rank, number], a[number, : update.rank] = update.factors
    return b.flatten(1), a.flatten(0, 1)


def take_expert(b: Tensor, a: Tensor, rank: int, number: int) -> LowRankUpdate:
    """One expert's update out of :func:`join_experts`.

    Args:
        b: [d_out, rank E].
        a: [E rank, d_in].
        rank: Rank that each expert has room for.
        number: The expert.
    """
    return LowRankUpdate(b.unflatten(1, (rank, -1))[:, :, number], a.unflatten(0, (-1, rank))[number])
