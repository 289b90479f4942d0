"""What an editing method is: requests and a layer in, an edit as data out. The model is left as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lga_lightning.editing.delta import WeightDelta
from lga_lightning.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EditMethod(ABC):
    """Computes edits."""

    @abstractmethod
    def compute_each(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], layer: int
    ) -> list[WeightDelta]:
        """An edit for each request, independent of the others, worked out as one batch.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            requests: The facts to edit.
            layer: Index of the block to edit.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The method's name and everything that its results depend on, for result files."""
