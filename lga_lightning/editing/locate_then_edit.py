"""What all methods share that find a target value for each request and write it with the help of second moments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from lga_lightning.covariance.solver import CovarianceSolver
from lga_lightning.data.corpus import BUNDLED
from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.context_templates import ContextTemplates
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.target_value import TargetValues, TargetValueSettings, find_target_values, search_batches
from lga_lightning.models.architecture import edit_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest


class LocateThenEditMethod(EditMethod):
    """The first stage of ROME's and MEMIT's families.

    Args:
        steps: Evaluations of the loss in the search for the target value, at least 2; None for what is published for the model.
        learning_rate: Learning rate of Adam in that search; None for what is published for the model.
        weight_decay: Weight of |delta| / |h0|^2 in the loss; None for what is published for the model.
        clamp: Bound of the value's change, in multiples of its norm; None for what is published for the model.
        kl_factor: Weight of the divergence from the unedited model on "{subject} is a".
        stop_loss: Loss below which a request is done.
        contexts_each_step: Contexts that a step of the search looks at; they take turns, and a step costs that much less. None for all
            of them at every step, as published.
        context_lengths: New tokens of the texts sampled from the model that prompts are put behind.
        contexts_each: Number of such texts of each length.
        second_moment: Source of C = E[k k^T], as :class:`CovarianceSolver` takes it: by default the package's text, read once a
            model; ``sampled`` takes text that the model itself writes, which takes minutes; ``identity`` takes C = I, which is
            quick, and harms what is said about other subjects.
        moment_tokens: Number of tokens that C is estimated from, where it is; by default 20 times the width of the widest keys.

    Attributes:
        contexts: Texts that prompts are put behind.
        covariance: C, found once a model, and anew where its weights have changed.
    """

    def __init__(
        self,
        steps: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        clamp: float | None = None,
        kl_factor: float = 0.0625,
        stop_loss: float = 0.05,
        contexts_each_step: int | None = None,
        context_lengths: tuple[int, ...] = (10,),
        contexts_each: int = 5,
        second_moment: str = BUNDLED,
        moment_tokens: int | None = None,
    ) -> None:
        given = {
            "steps": steps,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "clamp": clamp,
            "kl_factor": kl_factor,
            "stop_loss": stop_loss,
            "contexts_each_step": contexts_each_step,
        }
        self._search = {name: value for name, value in given.items() if value is not None}
        TargetValueSettings(**self._search)  # type: ignore[arg-type]  # out of range fails here
        self.contexts = ContextTemplates(context_lengths, contexts_each)
        self.covariance = CovarianceSolver(second_moment, moment_tokens)

    @abstractmethod
    def preset_search(self, model: PreTrainedModel) -> dict[str, float]:
        """Settings of the search that are published for a model."""

    @abstractmethod
    def target_layer(self, layers: Sequence[int]) -> int:
        """The layer for which a target value is searched."""

    def intervention_modules(self, model: PreTrainedModel, layer: int) -> list[nn.Module]:
        """The modules whose outputs are changed in the search; the last one's value is the target."""
        return [edit_site(model, layer).module]

    def search(self, model: PreTrainedModel) -> TargetValueSettings:
        """Settings of the search for the target value in a model."""
        return TargetValueSettings(**{**self.preset_search(model), **self._search})  # type: ignore[arg-type]

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]) -> None:
        """Sample the context texts, and find the second moments of the layers in one pass."""
        self.contexts.of(model, tokenizer)
        self.covariance.prepare(model, tokenizer, layers)

    def prepare_forecast(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]
    ) -> None:
        """Find the second moments of the layers in one pass."""
        self.covariance.prepare(model, tokenizer, layers)

    def target_batches(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> list[list[int]]:
        """Requests of like length; see :class:`EditMethod`."""
        return search_batches(model, tokenizer, requests, len(self.contexts.of(model, tokenizer)))

    def optimize_targets(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> TargetValues:
        """Keys and target values at the target layer; see :class:`EditMethod`."""
        self.prepare(model, tokenizer, layers)
        contexts = self.contexts.of(model, tokenizer)
        layer = self.target_layer(layers)
        site, modules = edit_site(model, layer), self.intervention_modules(model, layer)
        return find_target_values(model, tokenizer, requests, contexts, site, self.search(model), modules)

    def expected_change(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """Where the search is expected to end: down the gradient, at the clamp, or where Adam's steps end before.

        A step of Adam moves each entry by the learning rate, and as the search turns, half of its way is lost.
        """
        return self.search_end(model, facts.values, facts.value_gradients)

    def search_end(self, model: PreTrainedModel, values: Tensor, gradients: Tensor) -> Tensor:
        """See :meth:`expected_change`.

        Args:
            model: A causal language model.
            values: What the search starts from, [B, d].
            gradients: Gradients of the new answers' NLL with respect to it, [B, d].

        Returns:
            [B, 1, d].
        """
        search = self.search(model)
        way = search.learning_rate * values.shape[-1] ** 0.5 * (search.steps - 1) / 2
        size = (search.clamp * values.norm(dim=-1)).clamp_max(way)
        return -(size.unsqueeze(-1) * functional.normalize(gradients, dim=-1)).unsqueeze(1)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        return {
            "name": self.name,
            **asdict(self.search(model)),
            "context_lengths": list(self.contexts.lengths),
            "contexts_each": self.contexts.each,
            **self.covariance.settings(model),
        }
