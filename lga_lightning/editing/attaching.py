"""Edits that a model runs with, and no weight is touched: each row of a batch with its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from lga_lightning.editing.updates import DenseUpdate, Update
from lga_lightning.models.architecture import named_site
from lga_lightning.models.hooks import added_to_output
from lga_lightning.models.sites import EditSite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Edit(Protocol):
    """What can be attached: a :class:`~lga_lightning.WeightDelta`, say."""

    @property
    def updates(self) -> Mapping[str, Update]:
        """Update of each module, by its qualified name."""


@contextmanager
def attached(model: PreTrainedModel, deltas: Sequence[Edit], rows: Tensor | None = None) -> Iterator[None]:
    """Within the block, every row of a batch runs through a model with an edit of its own; no weight is touched.

    Args:
        model: A causal language model.
        deltas: Edits, at least one.
        rows: Number of the edit that each row of the batch gets, [N]; None gives every row the first.

    Raises:
        ModelError: If the model lacks a module that is edited.
        ValueError: If a module of the model has another shape.
    """
    if rows is None:
        deltas = deltas[:1]
    with ExitStack() as stack:
        for name in dict.fromkeys(name for delta in deltas for name in delta.updates):
            site = named_site(model, name)
            updates = [delta.updates.get(name) for delta in deltas]
            for update in updates:
                if update is not None:
                    update.check_fits(name, site.out_features, site.in_features)
            stack.enter_context(attached_at(site, updates, rows))
        yield


@contextmanager
def attached_at(site: EditSite, updates: list[Update | None], rows: Tensor | None) -> Iterator[None]:
    """Within the block, one module gives what it would with the updates: W k + B A k.

    Args:
        site: The module.
        updates: Its updates, None for none, at least one.
        rows: Number of the update that each row of the batch gets, [N]; None gives every row the only one.
    """
    device = site.device
    if rows is None:
        (update,) = updates
        stacked = () if update is None else update.factors
        factors = [factor.to(device).mT for factor in reversed(stacked)]
    else:
        which = rows.to(device)
        factors = [factor.to(device)[which].mT for factor in reversed(_stacked(updates))]

    def addition(keys: Tensor) -> Tensor:
        added = keys.to(factors[0].dtype)
        for factor in factors:
            added = added @ factor
        return added

    with added_to_output(site.module, addition, rows=None if rows is None else len(rows)):
        yield


def _stacked(updates: list[Update | None]) -> tuple[Tensor, ...]:
    """The factors of D updates of one module, the ranks filled up with zeros to the largest.

    Args:
        updates: Updates of the same shape, at least one; None for no change.

    Returns:
        B [D, d_out, r] and A [D, r, d_in]; changes [D, d_out, d_in] alone if one of the updates is dense.
    """
    present = {row: update for row, update in enumerate(updates) if update is not None}
    first = next(iter(present.values()))
    (d_out, d_in), like = first.shape, first.factors[-1]
    if any(isinstance(update, DenseUpdate) for update in present.values()):
        changes = like.new_zeros(len(updates), d_out, d_in)
        for row, update in present.items():
            changes[row] = update.matrix
        return (changes,)
    rank = max(update.rank for update in present.values())
    b, a = like.new_zeros(len(updates), d_out, rank), like.new_zeros(len(updates), rank, d_in)
    for row, update in present.items():
        b[row, :, : update.rank], a[row, : update.rank] = update.factors
    return b, a
