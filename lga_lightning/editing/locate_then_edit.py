"""What all methods share that seek a target value for each request and write it with the help of second moments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from lga_lightning.covariance.solver import CovarianceSolver
from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.context_templates import ContextTemplates
from lga_lightning.editing.target_value import TargetValues, TargetValueSettings, find_target_values
from lga_lightning.models.architecture import edit_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest


class LocateThenEditMethod(EditMethod):
    """The first stage of ROME's and MEMIT's families.

    Args:
        search: Settings of the search for the target value; None for what is published for the model.
        contexts: What prompts are put behind.
        second_moment: C.
    """

    def __init__(
        self, search: Mapping[str, float | None], contexts: ContextTemplates, second_moment: CovarianceSolver
    ) -> None:
        self._search = {name: value for name, value in search.items() if value is not None}
        TargetValueSettings(**self._search)  # type: ignore[arg-type]  # out of range fails here
        self.contexts = contexts
        self.second_moment = second_moment

    @abstractmethod
    def preset_search(self, model: PreTrainedModel) -> dict[str, float]:
        """Settings of the search that are published for a model."""

    @abstractmethod
    def target_layer(self, layers: Sequence[int]) -> int:
        """The layer whose target value is sought."""

    def intervention_modules(self, model: PreTrainedModel, layer: int) -> list[nn.Module]:
        """The modules whose outputs are moved in the search; the last one's value is the target."""
        return [edit_site(model, layer).module]

    def search(self, model: PreTrainedModel) -> TargetValueSettings:
        """How the target value is sought in a model."""
        return TargetValueSettings(**{**self.preset_search(model), **self._search})  # type: ignore[arg-type]

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]) -> None:
        """Sample the context texts, and find the second moments of the layers in one pass."""
        self.contexts.of(model, tokenizer)
        self.second_moment.prepare(model, tokenizer, layers)

    def optimize_targets(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> TargetValues:
        """Keys and target values."""
        self.prepare(model, tokenizer, layers)
        contexts = self.contexts.of(model, tokenizer)
        layer = self.target_layer(layers)
        site, intervention_modules = edit_site(model, layer), self.intervention_modules(model, layer)
        return find_target_values(model, tokenizer, requests, contexts, site, self.search(model), intervention_modules)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Name and settings, for result files."""
        return {
            "name": self.name,
            **asdict(self.search(model)),
            "context_lengths": list(self.contexts.lengths),
            "contexts_each": self.contexts.each,
            **self.second_moment.settings(model),
        }
