"""An editing method under guards: everywhere a method goes, it goes too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.guards import Guard
from lga_lightning.editing.targets import EditTargets
from lga_lightning.exceptions import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest


class Guarded(EditMethod):
    """A method whose every edit passes guards, one after the other, before anybody sees it.

    A session, the modes, a sweep, a race and a forecast edit with it as with any method. The guards see finished edits: what a method keeps
    of its own edits (AlphaEdit's keys, CrispEdit's curvature), and what the layers of a window leave to each other, is as without them.

    Args:
        method: The method.
        guards: Its guards, at least one, in the order in which they are applied.

    Raises:
        SettingError: If there is no guard.

    Example:
        >>> from lga_lightning.editing import MEMIT
        >>> from lga_lightning.editing.guards import NormGuard
        >>> Guarded(MEMIT(), [NormGuard(0.05)]).name
        'MEMIT with NormGuard'
    """

    def __init__(self, method: EditMethod, guards: Sequence[Guard]) -> None:
        if not guards:
            raise SettingError("`guards` is empty. Give at least one, or take the method without them.")
        self.method, self.guards = method, list(guards)
        self.name = f"{method.name} with {' and '.join(type(guard).__name__ for guard in guards)}"
        self.window = method.window
        self.keeps_history = method.keeps_history
        self.needs_subject = method.needs_subject
        self.history_entry = method.history_entry

    def new_history(self) -> dict[Any, Any] | None:
        """The method's own."""
        return self.method.new_history()

    def check_requests(self, requests: Sequence[EditRequest]) -> None:
        """The method's own check."""
        self.method.check_requests(requests)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]) -> None:
        """What the method and the guards need."""
        self.method.prepare(model, tokenizer, layers)
        for guard in self.guards:
            guard.prepare(model, layers)

    def target_batches(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> list[list[int]]:
        """The method's own."""
        return self.method.target_batches(model, tokenizer, requests)

    def optimize_targets(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> EditTargets:
        """The method's own; see :class:`EditMethod`."""
        return self.method.optimize_targets(model, tokenizer, requests, layers)

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[Any],
        layers: Sequence[int],
        history: dict[int, Any] | None = None,
    ) -> list[WeightDelta]:
        """What the guards leave of the method's edits; see :class:`EditMethod`."""
        deltas = self.method.write(model, tokenizer, groups, layers, history)
        for guard in self.guards:
            deltas = [guard.apply(model, delta) for delta in deltas]
        return deltas

    def window_at(self, layer: int) -> list[int]:
        """The method's own."""
        return self.method.window_at(layer)

    def prepare_forecast(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]
    ) -> None:
        """What the method and the guards need."""
        self.method.prepare_forecast(model, tokenizer, layers)
        for guard in self.guards:
            guard.prepare(model, layers)

    def expected_change(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """The method's own: guards come in where it is known what a block writes of it."""
        return self.method.expected_change(model, facts)

    def expected_directions(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """What the guards leave of the method's; see :class:`EditMethod`."""
        directions = self.method.expected_directions(model, facts)
        nothing = directions.new_zeros(*directions.shape[:2], facts.site.out_features)
        return self._expect(model, facts, nothing, directions)[1]

    def expected_share(self, model: PreTrainedModel, facts: LinearisedFacts, changes: Tensor, left: int) -> Tensor:
        """What the guards leave of the method's; see :class:`EditMethod`."""
        share = self.method.expected_share(model, facts, changes, left)
        return self._expect(model, facts, share, self.method.expected_directions(model, facts))[0]

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's settings, under the name of both, and the guards'."""
        guards = [guard.settings() for guard in self.guards]
        return {**self.method.settings(model), "name": self.name, "guards": guards}

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """The method's own."""
        return self.method.default_layers(model)

    def _expect(
        self, model: PreTrainedModel, facts: LinearisedFacts, changes: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        for guard in self.guards:
            changes, directions = guard.expect(model, facts.site, changes, directions)
        return changes, directions
