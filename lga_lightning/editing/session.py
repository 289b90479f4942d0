"""Edits one after the other on one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.base import EditMethod, EditTargets, ascending, check_agreement
from lga_lightning.editing.delta import WeightDelta

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EditSession:
    """Groups of requests, each edited with all edits before it in place. Between the calls the model is as it was.

    Args:
        method: Method that computes the edits.
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        layers: Indices of the blocks to edit.

    Attributes:
        delta: All edits so far.
        requests: The requests that have been edited, in order.
        history: What the method keeps of the edits so far by block (AlphaEdit: keys [m, d_in]); None for a method that keeps nothing.
    """

    def __init__(
        self,
        method: EditMethod,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layers: int | Sequence[int],
    ) -> None:
        self.method, self.model, self.tokenizer = method, model, tokenizer
        self.layers = ascending(model, layers)
        self.delta = WeightDelta({})
        self.requests: list[EditRequest] = []
        self.history: dict[int, Any] | None = {} if method.keeps_history else None

    def edit(self, requests: Sequence[EditRequest], batch_size: int = 8) -> None:
        """Edit a group of requests together.

        Args:
            requests: The group.
            batch_size: Number of requests whose targets are optimised at once.

        Raises:
            DataError: If two of them contradict each other.
        """
        with self.delta.applied(self.model):
            added = self.method.compute(
                self.model, self.tokenizer, requests, self.layers, batch_size, history=self.history
            )
        self._add(added, requests)

    def edit_targets(self, targets: EditTargets) -> None:
        """Edit a group for which the first stage of the method is done, on the model with all edits so far.

        Args:
            targets: What the first stage has found.

        Raises:
            DataError: If two of the requests contradict each other.
        """
        check_agreement(targets.requests)
        with self.delta.applied(self.model):
            added = self.method.write(self.model, self.tokenizer, [targets], self.layers, self.history)[0]
        self._add(added, targets.requests)

    def relative_norms(self) -> dict[int, float]:
        """Frobenius norm of all changes over that of the weights that they change, together, by block."""
        norms = {}
        for layer, sites in self.delta.by_block(self.model).items():
            changes = torch.stack([self.delta.matrix(site.name).norm().cpu() for site in sites])
            weights = torch.stack([site.weight.float().norm().cpu() for site in sites])
            norms[layer] = (changes.norm() / weights.norm()).item()
        return norms

    def state(self) -> dict[str, Any]:
        """The edits so far, for :meth:`restore`; edits that come later leave it as it is."""
        history = None if self.history is None else dict(self.history)
        return {"delta": self.delta, "requests": list(self.requests), "history": history}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to edits.

        Args:
            state: What :meth:`state` gave.
        """
        self.delta, self.requests = state["delta"], list(state["requests"])
        self.history = None if state["history"] is None else dict(state["history"])

    def _add(self, added: WeightDelta, requests: Sequence[EditRequest]) -> None:
        self.delta = (self.delta + added).compact()
        self.requests += requests
