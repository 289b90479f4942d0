"""An edit as data: updates of some of a model's matrices that can be tried, applied, undone, joined, saved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.editing.adapter import edited_site, load_updates, save_updates
from lga_lightning.editing.attaching import attached, attached_at
from lga_lightning.editing.facts import NO_FACTS, Facts
from lga_lightning.editing.facts_file import load_facts
from lga_lightning.editing.in_place import InPlace, Originals, check_writable, in_place
from lga_lightning.editing.peft_layout import name_within
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate, RankError, Update
from lga_lightning.exceptions import SettingError
from lga_lightning.models.loading import hub_name, name_of
from lga_lightning.models.packed import reads_with
from lga_lightning.models.per_weights import edited
from lga_lightning.models.sites import EditSite
from lga_lightning.models.storage import like_stored, reshard_
from lga_lightning.utils.io import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False, repr=False)
class WeightDelta:
    """An edit of the weights of some linear modules, in a block or not.

    Attributes:
        updates: Update of each module, a :class:`LowRankUpdate` or a :class:`DenseUpdate`, by the module's qualified name in
            the model (``model.layers.3.mlp.down_proj``).
        facts: The facts that it holds, where it is known who made it, and which columns are whose.

    Raises:
        TypeError: If a key is no name, or a value no update.

    Example:
        >>> from lga_lightning.editing.updates import LowRankUpdate
        >>> first = WeightDelta({"model.layers.3.mlp.down_proj": LowRankUpdate(torch.ones(4, 1), torch.ones(1, 6))})
        >>> first + first
        WeightDelta(model.layers.3.mlp.down_proj: LowRankUpdate(4 x 6, rank 2))
    """

    updates: Mapping[str, Update]
    facts: Facts = NO_FACTS

    def __post_init__(self) -> None:
        for name, update in self.updates.items():
            if not isinstance(name, str) or not isinstance(update, Update):
                raise TypeError(
                    "Expected `updates` to have a LowRankUpdate or a DenseUpdate for each module's name, got a "
                    f"{type(update).__name__} for {name!r}. `WeightDelta.at(edit_site(model, layer), update)` is an edit of a block's "
                    "out-projection."
                )

    @classmethod
    def at(cls, site: EditSite, update: Update) -> WeightDelta:
        """An edit of one module; of experts side by side, an edit of each of them that changes.

        Args:
            site: The module.
            update: What is added to its weight.
        """
        if not site.parts:
            return cls({site.name: update})
        return cls({site.parts[number]: part for number, part in update.split(len(site.parts)).items()})

    @classmethod
    def join(cls, deltas: Iterable[WeightDelta]) -> WeightDelta:
        """All of some edits; see :meth:`__add__`.

        Args:
            deltas: The edits.
        """
        return sum(deltas, cls({}))

    @property
    def ranks(self) -> dict[str, int]:
        """The rank by module; of a dense update, its number of rows."""
        return {name: update.rank for name, update in self.updates.items()}

    @property
    def is_dense(self) -> bool:
        """Whether some module has a dense update."""
        return any(isinstance(update, DenseUpdate) for update in self.updates.values())

    def matrix(self, name: str) -> Tensor:
        """What is added to a module's weight, [d_out, d_in]."""
        return self.updates[name].matrix

    def by_block(self, model: PreTrainedModel) -> dict[int, list[EditSite]]:
        """The edited modules by the number of their block in a model, ascending; -1 for those that are in no block.

        Raises:
            ModelError: If the model lacks one of the modules.
            ValueError: If a module of the model has another shape.
        """
        found: dict[int, list[EditSite]] = {}
        for site in sorted(self._sites(model), key=lambda site: site.layer):
            found.setdefault(site.layer, []).append(site)
        return found

    def __add__(self, other: WeightDelta) -> WeightDelta:
        """Both edits, made without each other; see :meth:`Update.__add__` for a module that both of them change."""
        return self._joined(other)

    def then(self, other: WeightDelta) -> WeightDelta:
        """Both edits, the other one made with this one in place: its facts depend on those of this one.

        Args:
            other: The later edit.
        """
        return self._joined(other, on_top=True)

    def compact(self) -> WeightDelta:
        """The same edit with no rank above a matrix's d_out or d_in: of more edits than that, the sum takes less room than the list."""
        return self._with({name: update.compact() for name, update in self.updates.items()})

    def low_rank(self, rank: int) -> tuple[WeightDelta, dict[str, RankError]]:
        """The nearest edit with no rank above ``rank``, and what it lacks by module; see :meth:`Update.low_rank`.

        Args:
            rank: Rank at most, in every module.

        Example:
            >>> from lga_lightning.editing.updates import DenseUpdate
            >>> whole = WeightDelta({"lm_head": DenseUpdate(torch.diag(torch.tensor([4.0, 3.0, 0.0])))})
            >>> whole.low_rank(1)
            (WeightDelta(lm_head: LowRankUpdate(3 x 3, rank 1)), {'lm_head': RankError(frobenius=0.6000000238418579, spectral=0.75)})
        """
        parts = {name: update.low_rank(rank) for name, update in self.updates.items()}
        return self._with({name: update for name, (update, _) in parts.items()}), {
            name: error for name, (_, error) in parts.items()
        }

    def without(self, ids: Collection[str]) -> WeightDelta:
        """The edit that would have been made without some of its facts: their columns are left out.

        Args:
            ids: Ids of the facts, as ``facts`` gives them.

        Raises:
            DataError: If there is no such fact, or no fact would be left.
            SettingError: If others of its facts were solved for together with them or on top of them, so that this is another edit.
        """
        self.facts.check_ids(ids)
        if reason := self.facts.entangled(ids):
            raise SettingError(
                f"Not exactly possible: {reason}. Leaving out their columns would not give the edit that would have been made "
                "without them."
            )
        facts, gone = self.facts.without(ids)
        updates = {}
        for name, update in self.updates.items():
            stay = [column for column in range(update.rank) if column not in gone.get(name, ())]
            if not isinstance(update, LowRankUpdate) or len(stay) == update.rank:
                updates[name] = update
            elif stay:
                updates[name] = LowRankUpdate(update.b[:, stay], update.a[stay])
        return WeightDelta(updates, facts)

    def save_pretrained(
        self, folder: str | Path, model: PreTrainedModel, base: str | None = None, overwrite: bool = False
    ) -> None:
        """Write a folder that ``PeftModel.from_pretrained(model, folder)`` reads; see :func:`~.adapter.save_updates`.

        Args:
            folder: Folder that is to appear.
            model: The unedited model; without edits that were merged into it.
            base: Name of the model for those who load the folder; by default the name it was loaded by.
            overwrite: Whether to replace a folder that is there.
        """
        save_updates(
            self.updates,
            user_path(folder),
            model,
            base or hub_name(name_of(model)),
            overwrite=overwrite,
            facts=self.facts,
        )

    @classmethod
    def load(cls, folder: str | Path, model: PreTrainedModel | None = None) -> WeightDelta:
        """Read such a folder back; see :func:`~.adapter.load_updates`.

        Args:
            folder: The folder.
            model: The model to be edited, to refuse an edit that was made for another one.
        """
        facts = load_facts(Path(folder))
        return cls(
            load_updates(Path(folder), model),
            facts if model is None else facts.renamed(partial(name_within, model)),
        )

    @contextmanager
    def attached(self, model: PreTrainedModel) -> Iterator[None]:
        """Within the block, the model runs as if edited; no weight is touched."""
        with attached(model, [self]):
            yield

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[None]:
        """Within the block, the edit is in the weights; afterwards they are what they were, bit for bit.

        Where nothing can be written (:attr:`EditSite.is_writable`), it is added to the module's outputs, and the weight is read with it.
        """
        apart = [site for site in self._sites(model) if not site.is_writable]
        names = {site.name for site in apart}
        written = WeightDelta({name: update for name, update in self.updates.items() if name not in names})
        originals = written.merge_(model)
        before = {name: values for name, (_, values) in zip(written.updates, originals.weights, strict=True)}
        try:
            with ExitStack() as stack:
                for site in apart:
                    update = self.updates[site.name]
                    stack.enter_context(attached_at(site, [update], None))
                    stack.enter_context(reads_with(site.module, partial(getattr, update, "matrix")))
                stack.enter_context(in_place(model, InPlace(self.updates, before)))
                yield
        finally:
            originals.restore_()

    def merge_(self, model: PreTrainedModel) -> Originals:
        """Write the edit into the weights: whole, or, where that fails, not at all.

        Returns:
            The weights as they were, with which to undo it exactly.

        Raises:
            ModelError: If the model lacks one of the modules, or a weight is quantised or put aside, so that nothing can be added to it.
            ValueError: If a module of the model has another shape.
        """
        reshard_(model)
        weights = {}
        for site in self._sites(model):
            check_writable(site)
            weights[site.name] = site.weight
        originals = Originals([(weight, weight.detach().clone()) for weight in weights.values()], model)
        try:
            with torch.no_grad(), edited(model):
                for name, weight in weights.items():
                    # added in the wider of the two dtypes
                    weight.copy_(weight + like_stored(self.matrix(name), weight))
        except BaseException:
            originals.restore_()
            raise
        return originals

    def __repr__(self) -> str:
        return f"WeightDelta({', '.join(f'{name}: {update!r}' for name, update in self.updates.items())})"

    def _joined(self, other: WeightDelta, on_top: bool = False) -> WeightDelta:
        joined = dict(self.updates)
        for name, update in other.updates.items():
            joined[name] = joined[name] + update if name in joined else update
        folded = [name for name in self.updates if isinstance(joined[name], DenseUpdate)]
        return WeightDelta(joined, self.facts.joined(other.facts, self.ranks, on_top).folded(folded))

    def _with(self, updates: Mapping[str, Update]) -> WeightDelta:
        """The same facts with other factors, in the modules where they are others."""
        folded = [name for name, update in updates.items() if update is not self.updates[name]]
        return WeightDelta(updates, self.facts.folded(folded))

    def _sites(self, model: PreTrainedModel) -> list[EditSite]:
        """The edited modules in a model, found to fit."""
        sites = [edited_site(model, name) for name in self.updates]
        for site in sites:
            self.updates[site.name].check_fits(site.name, site.out_features, site.in_features)
        return sites
