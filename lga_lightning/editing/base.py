"""What an editing method is: requests and layers in, an edit as data out. The model is left as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lga_lightning.data.agreement import check_agreement, check_together
from lga_lightning.data.requests import EditRequest, check_subjects
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.facts import Facts
from lga_lightning.editing.first_order import Forecastable
from lga_lightning.editing.targets import EditTargets
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import check_layer
from lga_lightning.models.chat import asks_in_chat
from lga_lightning.models.hooks import without_autocast
from lga_lightning.utils.dealing import Deal, alone
from lga_lightning.utils.settings import ShowsSettings, check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EditMethod(ShowsSettings, Forecastable, ABC):
    """Computes edits in two stages: targets for each request by itself, and an update for all of a group together.

    A method leaves the model as it was. Where earlier edits are to be in place, attach or apply them around the call.

    Attributes:
        name: Name of the method, as the field writes it.
        keeps_history: Whether an editing session's earlier edits (their keys, their statistics) enter into its later ones.
        history_entry: What it keeps of each block or module in a session: a tensor, or a dataclass of tensors and numbers.
        column_each: Whether an update of N requests has N columns, one for each of them, in order.
        in_turn: Whether at a single block these are written one after the other, none by what comes behind it.
        needs_subject: Whether it works at the subject's last token, so that a request without one is refused.
    """

    name: str
    keeps_history: bool = False
    needs_subject: bool = True
    history_entry: type = Tensor
    column_each: bool = False
    in_turn: bool = False

    def check_requests(self, requests: Sequence[EditRequest]) -> None:
        """Refuse requests that the method cannot edit; what edits through it checks by itself.

        Args:
            requests: The requests.

        Raises:
            InvalidRequest: If the method needs a subject, and one of them has none.
        """
        if self.needs_subject:
            check_subjects(requests, self.name)

    def new_history(self) -> dict[Any, Any] | None:
        """What an editing session keeps of its edits, before the first; None for a method that keeps nothing."""
        return {} if self.keeps_history else None

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]) -> None:
        """Have at hand what editing some layers needs and no request changes; :meth:`optimize_targets` sees to it by itself.

        Args:
            model: A causal language model, not edited so far.
            tokenizer: Its fast tokenizer.
            layers: Indices of blocks.
        """

    def target_batches(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> list[list[int]]:
        """Which requests :meth:`optimize_targets` had best be given together, where they may come apart; by default all of them.

        Args:
            model: A causal language model.
            tokenizer: Its fast tokenizer.
            requests: The facts to edit.

        Returns:
            Positions of the requests, batch by batch.
        """
        return [list(range(len(requests)))]

    @abstractmethod
    def optimize_targets(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> EditTargets:
        """The first stage: what each request asks for by itself, of all requests in one batch.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            requests: The facts to edit.
            layers: Indices of the blocks to edit, ascending.
        """

    @abstractmethod
    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[Any],
        layers: Sequence[int],
        history: dict[Any, Any] | None = None,
    ) -> list[WeightDelta]:
        """The second stage: one edit for each group of requests, each group on a model without the others.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            groups: What :meth:`optimize_targets` found for the requests of each group.
            layers: Indices of the blocks to edit, ascending.
            history: What :meth:`new_history` gave when the editing session began, for a method that ``keeps_history``, which reads it
                and adds what it keeps: keys [m, d_in] by block, statistics by module. None for an edit that stands alone.
        """

    @abstractmethod
    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and everything that its results on a model depend on, for result files.

        A setting that names a file, or a data set, may have a hash of the content beside it, as ``{setting}_hash``.
        """

    def settings_by_layer(self, model: PreTrainedModel) -> dict[str, Any]:
        """All that its scores by layer depend on: its settings, and of how many blocks the window is that a layer stands for."""
        return {**self.settings(model), "window": self.window}

    @abstractmethod
    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """The layers that papers and toolkits edit in a model, or a choice by depth; see :func:`preset_for`."""

    def compute(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: int | Sequence[int],
        batch_size: int = 8,
        history: dict[Any, Any] | None = None,
        deal: Deal = alone,
    ) -> WeightDelta:
        """One edit for all requests together.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            requests: The facts to edit.
            layers: Index of the block to edit, or several.
            batch_size: Number of requests whose targets are optimised at once.
            history: See :meth:`write`.
            deal: How batches of targets are optimised: by this process alone, or among several, each of which then has the edit.

        Raises:
            DataError: If there is no request, two contradict each other, or one lacks a subject that the method needs.
            LayerError: If the model lacks one of the layers.
            SettingError: If there is no layer, ``batch_size`` is below 1, or there is a history for a method that keeps none.
        """
        check_at_least_one(batch_size=batch_size)
        check_together(requests)
        if history is not None and not self.keeps_history:
            raise SettingError(
                f"`history` holds the keys of earlier edits, and {self.name} keeps none. Leave it out, or take AlphaEdit, or MEMIT, "
                "EMMET or ROME with `history=True`."
            )
        layers = ascending(model, layers)
        self.check_requests(requests)
        batches = [
            [start + row for row in rows]
            for start in range(0, len(requests), batch_size)
            for rows in self.target_batches(model, tokenizer, requests[start : start + batch_size])
        ]
        parts = deal(
            lambda rows: self.optimize_targets(model, tokenizer, [requests[row] for row in rows], layers), batches
        )
        targets = EditTargets.in_order(batches, parts)
        return self.write_groups(model, tokenizer, [targets], layers, history)[0]

    def write_groups(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[EditTargets],
        layers: Sequence[int],
        history: dict[Any, Any] | None = None,
    ) -> list[WeightDelta]:
        """As :meth:`write`, with edits that know their facts.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            groups: What :meth:`optimize_targets` found for the requests of each group.
            layers: Indices of the blocks to edit, ascending.
            history: See :meth:`write`.
        """
        with without_autocast(model):
            deltas, settings = self.write(model, tokenizer, groups, layers, history), self.settings(model)
        how = self.column_each, self.in_turn and len(layers) == 1, layers, settings, asks_in_chat(tokenizer)
        return [
            WeightDelta(delta.updates, Facts.of(group.requests, delta.updates, *how))
            for group, delta in zip(groups, deltas, strict=True)
        ]

    def compute_groups(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: int | Sequence[int],
    ) -> list[WeightDelta]:
        """As :meth:`compute_each`, but requests of the same ``group`` are edited together: they share one edit.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            requests: N facts to edit.
            layers: Index of the block to edit, or several.

        Returns:
            N edits; the same object for requests of one group.

        Raises:
            InvalidRequest: If one lacks a subject that the method needs.
            DataError: If two requests of a group contradict each other.
        """
        members: dict[object, list[int]] = {}
        for number, request in enumerate(requests):
            members.setdefault(number if request.group is None else request.group, []).append(number)
        for rows in members.values():
            check_agreement([requests[row] for row in rows])
        deltas = self._compute_apart(model, tokenizer, requests, layers, list(members.values()))
        owner = {row: delta for rows, delta in zip(members.values(), deltas, strict=True) for row in rows}
        return [owner[row] for row in range(len(requests))]

    def compute_each(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: int | Sequence[int],
    ) -> list[WeightDelta]:
        """An edit for each request, independent of the others, worked out as one batch.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            requests: The facts to edit.
            layers: Index of the block to edit, or several.

        Raises:
            InvalidRequest: If one lacks a subject that the method needs.
        """
        return self._compute_apart(model, tokenizer, requests, layers, [[row] for row in range(len(requests))])

    def _compute_apart(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: int | Sequence[int],
        members: Sequence[Sequence[int]],
    ) -> list[WeightDelta]:
        """An edit for each of some groups, given by the numbers of their requests; targets are found for all in one batch."""
        layers = ascending(model, layers)
        self.check_requests(requests)
        each = self.optimize_targets(model, tokenizer, requests, layers).each()
        groups = [each[0].join([each[row] for row in rows]) if len(rows) > 1 else each[rows[0]] for rows in members]
        return self.write_groups(model, tokenizer, groups, layers)


def ascending(model: PreTrainedModel, layers: int | Sequence[int]) -> list[int]:
    """Layers as a list without repeats, shallowest first.

    Raises:
        SettingError: If there is none.
        LayerError: If the model lacks one.
    """
    chosen = sorted({layers} if isinstance(layers, int) else set(layers))
    if not chosen:
        raise SettingError("`layers` is empty. Give at least one block to edit.")
    return [check_layer(model, layer) for layer in chosen]
