"""An edit as data: low-rank updates of out-projections that can be tried, applied, undone, joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.exceptions import ModelError
from lga_lightning.models.architecture import EditSite, edit_site
from lga_lightning.models.hooks import added_to_output

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class WeightDelta:
    """An edit W <- W + B A of the out-projections of some blocks.

    Attributes:
        factors: By block, B [d_out, r] and A [r, d_in]; the rank r may differ from block to block. A dense edit has None for
            B, and the whole change [d_out, d_in] for A.

    Example:
        >>> first = WeightDelta({3: (torch.ones(4, 1), torch.ones(1, 6))})
        >>> (first + first).ranks
        {3: 2}
    """

    factors: Mapping[int, tuple[Tensor | None, Tensor]]

    def __post_init__(self) -> None:
        for layer, (b, a) in self.factors.items():
            if b is None and a.ndim == 2:
                continue
            if b is None or b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
                raise ValueError(
                    f"Block {layer}: expected B [d_out, r] and A [r, d_in], got "
                    f"{None if b is None else list(b.shape)} and {list(a.shape)}."
                )

    @property
    def ranks(self) -> dict[int, int]:
        """The rank by block; of a dense edit, the number of rows."""
        return {layer: a.shape[0] for layer, (_, a) in self.factors.items()}

    @property
    def is_dense(self) -> bool:
        """Whether some block has a dense change."""
        return any(b is None for b, _ in self.factors.values())

    def matrix(self, layer: int) -> Tensor:
        """What is added to a block's out-projection, [d_out, d_in]."""
        b, a = self.factors[layer]
        return a if b is None else b @ a

    def __add__(self, other: WeightDelta) -> WeightDelta:
        """Both edits: factors of the same block are joined along the rank, dense changes added up."""
        joined = dict(self.factors)
        for layer, (b, a) in other.factors.items():
            if layer not in joined:
                joined[layer] = (b, a)
                continue
            mine_b, mine_a = joined[layer]
            if b is None or mine_b is None:
                joined[layer] = (None, self.matrix(layer) + other.matrix(layer))
            else:
                joined[layer] = (torch.cat([mine_b, b], 1), torch.cat([mine_a, a], 0))
        return WeightDelta(joined)

    def compact(self) -> WeightDelta:
        """The same edit with no rank above d_out: of more edits than that, the sum takes less room than the list."""
        factors = dict(self.factors)
        for layer, (b, a) in self.factors.items():
            if b is not None and a.shape[0] > b.shape[0]:
                factors[layer] = (torch.eye(b.shape[0]).to(b), b @ a)
        return WeightDelta(factors)

    def save_pretrained(
        self, folder: str | Path, model: PreTrainedModel, base: str | None = None, overwrite: bool = False
    ) -> None:
        """Write a folder that ``PeftModel.from_pretrained(model, folder)`` reads; see :func:`~.adapter.save_delta`.

        Args:
            folder: Where it is to appear.
            model: The unedited model.
            base: Its name for those who load the folder; the name it was loaded by, by default.
            overwrite: Replace a folder that is there.
        """
        from lga_lightning.editing.adapter import save_delta

        save_delta(self, Path(folder), model, base or model.config._name_or_path, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path, model: PreTrainedModel | None = None) -> WeightDelta:
        """Read such a folder back; see :func:`~.adapter.load_delta`.

        Args:
            folder: The folder.
            model: The model to be edited, to refuse an edit that was made for another one.
        """
        from lga_lightning.editing.adapter import load_delta

        return load_delta(Path(folder), model)

    @contextmanager
    def attached(self, model: PreTrainedModel) -> Iterator[None]:
        """Within the block, the model runs as if edited; no weight is touched."""
        with attached(model, [self]):
            yield

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[None]:
        """Within the block, the edit is in the weights; afterwards they are what they were, bit for bit."""
        originals = self.merge_(model)
        try:
            yield
        finally:
            originals.restore_()

    def merge_(self, model: PreTrainedModel) -> Originals:
        """Write the edit into the weights.

        Returns:
            The weights as they were, with which to undo it exactly.

        Raises:
            LayerError: If the model lacks one of the blocks.
            ModelError: If a weight is quantised, so that nothing can be added to it.
            ValueError: If the factors do not fit the model.
        """
        weights = {}
        for layer, (b, a) in self.factors.items():
            site = edit_site(model, layer)
            if not site.weight.is_floating_point():
                raise ModelError(
                    f"{site.name} is quantised ({site.weight.dtype}), so an edit cannot be written into it. Keep "
                    "the edit apart (`attached`), or load the model in bfloat16 or float32."
                )
            _check_fits(site, b, a)
            weights[layer] = site.weight
        originals = Originals([(weight, weight.detach().clone()) for weight in weights.values()])
        with torch.no_grad():
            for layer, weight in weights.items():
                weight.copy_(weight + self.matrix(layer).to(weight.device))  # added in the wider of the two dtypes
        return originals


@dataclass(frozen=True)
class Originals:
    """Weights as they were before an edit.

    Attributes:
        weights: Each edited weight and a copy of its values.
    """

    weights: list[tuple[Tensor, Tensor]]

    def restore_(self) -> None:
        """Copy the values back, bit for bit."""
        with torch.no_grad():
            for weight, values in self.weights:
                weight.copy_(values)


@contextmanager
def attached(model: PreTrainedModel, deltas: Sequence[WeightDelta], rows: Tensor | None = None) -> Iterator[None]:
    """Within the block, every row of a batch runs through a model with an edit of its own; no weight is touched.

    Args:
        model: A causal language model.
        deltas: The edits.
        rows: [N] which edit each row of the batch gets; None gives every row the first.
    """
    with ExitStack() as stack:
        for layer in sorted({layer for delta in deltas for layer in delta.factors}):
            site = edit_site(model, layer)
            b, a = _stacked(deltas, site)
            stack.enter_context(_attached_at(site, b, a, rows))
        yield


@contextmanager
def _attached_at(site: EditSite, b: Tensor | None, a: Tensor, rows: Tensor | None) -> Iterator[None]:
    """Factors [D, d_out, r] and [D, r, d_in] at one module, or dense changes [D, d_out, d_in]."""
    device = site.weight.device
    which = torch.zeros((), dtype=torch.long) if rows is None else rows
    a = a.to(device)[which.to(device)].mT
    if b is not None:
        b = b.to(device)[which.to(device)].mT

    def addition(keys: Tensor) -> Tensor:
        along = keys.to(a.dtype) @ a
        return along if b is None else along @ b

    with added_to_output(site.module, addition, rows=None if rows is None else len(rows)):
        yield


def _stacked(deltas: Sequence[WeightDelta], site: EditSite) -> tuple[Tensor | None, Tensor]:
    """The factors of several edits at one block, filled up with zeros to the largest rank."""
    present = {row: delta.factors[site.layer] for row, delta in enumerate(deltas) if site.layer in delta.factors}
    for b, a in present.values():
        _check_fits(site, b, a)
    like = next(iter(present.values()))[1]
    if any(b is None for b, _ in present.values()):
        dense = like.new_zeros(len(deltas), site.out_features, site.in_features)
        for row in present:
            dense[row] = deltas[row].matrix(site.layer)
        return None, dense
    rank = max(a.shape[0] for _, a in present.values())
    stacked_b = like.new_zeros(len(deltas), site.out_features, rank)
    stacked_a = like.new_zeros(len(deltas), rank, site.in_features)
    for row, (b, a) in present.items():
        if b is not None:
            stacked_b[row, :, : b.shape[1]] = b
            stacked_a[row, : a.shape[0]] = a
    return stacked_b, stacked_a


def _check_fits(site: EditSite, b: Tensor | None, a: Tensor) -> None:
    rows = a.shape[0] if b is None else b.shape[0]
    if (rows, a.shape[1]) != (site.out_features, site.in_features):
        raise ValueError(
            f"The edit of block {site.layer} is {rows} x {a.shape[1]}, but {site.name} is "
            f"{site.out_features} x {site.in_features}: it was made for another model."
        )
