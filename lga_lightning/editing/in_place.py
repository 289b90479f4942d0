"""The edits that are in a model's weights for the time being, and what the weights are without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.editing.updates import Update
from lga_lightning.exceptions import ModelError
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.packed import unpacked
from lga_lightning.models.per_weights import edited, kept
from lga_lightning.models.sites import EditSite
from lga_lightning.models.storage import whole
from lga_lightning.utils.per_model import PerModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class InPlace:
    """An edit in the weights.

    Attributes:
        updates: Update of each module, by name.
        before: The weights [d_out, d_in] that it is written into as they were right before, by the same names, stored as they are.
    """

    updates: Mapping[str, Update]
    before: Mapping[str, Tensor]


@dataclass(frozen=True)
class Originals:
    """Weights as they were before an edit.

    Attributes:
        weights: Each edited weight and a copy of its values.
        model: The model that they are of.
    """

    weights: list[tuple[Tensor, Tensor]]
    model: PreTrainedModel

    def restore_(self) -> None:
        """Copy the values back, bit for bit."""
        with torch.no_grad(), edited(self.model):
            for weight, values in self.weights:
                weight.copy_(values)


_IN_PLACE: PerModel[list[InPlace]] = PerModel()


@contextmanager
def in_place(model: PreTrainedModel, edit: InPlace) -> Iterator[None]:
    """Within the block, an edit is known to be in a model's weights, on top of those that are known already.

    Args:
        model: A language model.
        edit: The edit, which somebody else writes and takes out.
    """
    if not edit.updates:
        yield
        return
    edits = _IN_PLACE.setdefault(model, [])
    edits.append(edit)
    try:
        with kept(model):
            yield
    finally:
        edits.remove(edit)


def unedited_weight(model: PreTrainedModel, site: EditSite) -> Tensor:
    """A module's weight [d_out, d_in] without the edits that are in place.

    Args:
        model: A language model.
        site: The module.
    """
    if not site.is_writable:  # nothing is ever written into it
        weight = unpacked(site.module)
        return weight.T if site.transposed else weight
    found = (edit.before[site.name] for edit in _IN_PLACE.get(model, ()) if site.name in edit.before)
    before = next(found, None)
    return site.whole_weight() if before is None else whole(before)


def update_in_place(model: PreTrainedModel, name: str) -> Update | None:
    """What the edits in place have added to a module's weight, all together; None for nothing.

    Args:
        model: A language model.
        name: Qualified name of the module.
    """
    total: Update | None = None
    for edit in _IN_PLACE.get(model, ()):
        if name in edit.updates:
            total = edit.updates[name] if total is None else total + edit.updates[name]
    return total


def check_mergeable(model: PreTrainedModel) -> None:
    """Refuse a model into whose out-projections nothing can be written, before edits are made that are to be.

    Args:
        model: A causal language model.

    Raises:
        ModelError: If the weight of one is packed, put aside, or a shard of experts.
    """
    sites = []
    for layer in range(len(blocks(model))):
        with suppress(ModelError):  # a block may have no out-projection
            sites.append(edit_site(model, layer))
    for site in sites:
        check_writable(site)


def check_writable(site: EditSite) -> None:
    """Refuse a module into whose weight nothing can be written.

    Args:
        site: The module.

    Raises:
        ModelError: If its weight is packed, put aside, or a shard of experts.
    """
    if site.packing is not None:
        raise ModelError(
            f"{site.name} is quantised ({site.packing}), so an edit cannot be written into it. Keep the edit as an adapter, which goes "
            "on top of the quantised model (`save_pretrained`, or lga predict without --edits.merge; `attached` to try it), or "
            "load the model in bfloat16 or float32."
        )
    if not site.is_writable:
        stored = (
            "put aside until it runs (`device_map`)"
            if site.module.get_parameter("weight").is_meta
            else "in shards of whole experts"
        )
        raise ModelError(
            f"The weight of {site.name} is {stored}, so an edit cannot be written into it. Keep the edit as an adapter (`save_pretrained`, or "
            "lga predict without --edits.merge; `attached` to try it), or load the model whole."
        )
