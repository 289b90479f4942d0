"""Edits one after the other on one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.base import EditMethod, EditTargets, ascending, check_agreement
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.models.architecture import edit_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EditSession:
    """Groups of requests, each edited with all edits before it in place. Between the calls the model is as it was.

    Args:
        method: How to edit.
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        layers: The blocks to edit.

    Attributes:
        delta: All edits so far.
        requests: What they are about.
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
        self.memory: dict[int, Tensor] = {}

    def edit(self, requests: Sequence[EditRequest], batch_size: int = 8) -> None:
        """Edit a group of requests together.

        Args:
            requests: The group.
            batch_size: Requests that are sought at once.

        Raises:
            DataError: If two of them contradict each other.
        """
        with self.delta.applied(self.model):
            added = self.method.compute(
                self.model, self.tokenizer, requests, self.layers, batch_size, memory=self.memory
            )
        self._add(added, requests)

    def edit_targets(self, sought: EditTargets) -> None:
        """Edit a group for which the first stage of the method is done, on the model with all edits so far.

        Args:
            sought: What was found.
        """
        check_agreement(sought.requests)
        with self.delta.applied(self.model):
            added = self.method.write(self.model, self.tokenizer, [sought], self.layers, self.memory)[0]
        self._add(added, sought.requests)

    def relative_norms(self) -> dict[int, float]:
        """By layer, the Frobenius norm of all changes over that of the weight."""
        norms = {}
        for layer in self.delta.factors:
            weight = edit_site(self.model, layer).weight
            norms[layer] = (self.delta.matrix(layer).norm().to(weight.device) / weight.float().norm()).item()
        return norms

    def _add(self, added: WeightDelta, requests: Sequence[EditRequest]) -> None:
        self.delta = (self.delta + added).compact()
        self.requests += requests
