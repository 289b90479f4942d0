"""FT-L and FT-M: fine-tuning within bounds of the old weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lga_lightning.editing.presets import preset_for
from lga_lightning.editing.tuning import FineTuning
from lga_lightning.exceptions import SettingError
from lga_lightning.models.encoding import encode_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest
    from lga_lightning.models.encoding import EncodedAnswers


class BoundedFineTuning(FineTuning):
    """Fine-tuning close to the old weights (FT-L of the ROME paper, as in EasyEdit).

    Args:
        steps: Number of rounds over a group's requests.
        learning_rate: Learning rate of Adam.
        epsilon: Bound of the change of every entry; None for no bound.
        stop_loss: Mean loss over a round below which a group is done.
        batch_size: Number of requests of one group in a step.
    """

    def __init__(
        self,
        steps: int = 25,
        learning_rate: float = 5e-4,
        epsilon: float | None = 5e-4,
        stop_loss: float = 0.01,
        batch_size: int = 8,
    ) -> None:
        super().__init__(steps, learning_rate, stop_loss, batch_size)
        if epsilon is not None and not epsilon > 0:
            raise SettingError(f"`epsilon` must be above 0, or left out for no limit, got {epsilon}.")
        self.epsilon = epsilon

    @property
    def steps(self) -> int:
        """Number of rounds over a group's requests."""
        return self.rounds

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """One block; see :func:`preset_for`."""
        return [preset_for(model).tuned_layer]

    def limit_(self, change: Tensor) -> None:
        """Clamp every entry; see :class:`FineTuning`."""
        if self.epsilon is not None:
            change.clamp_(-self.epsilon, self.epsilon)

    def largest_entry(self) -> float:
        """As far as the steps get, or the bound."""
        way = super().largest_entry()
        return min(way, self.epsilon or way)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        return {**super().settings(model), "epsilon": self.epsilon}


def encode_targets(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], ending: Sequence[int] = ()
) -> EncodedAnswers:
    """Prompts with their new answers, each answer token scored at its own position.

    Args:
        tokenizer: A fast tokenizer.
        requests: N requests.
        ending: Tokens that every answer ends with.
    """
    prompts, answers = ([getattr(request, name) for request in requests] for name in ("prompt", "target_new"))
    return encode_answers(tokenizer, prompts, answers, ending=ending)


class FTL(BoundedFineTuning):
    """Every token of the new answer is scored at the prompt's last position, as in the public code.

    That is wrong for answers of several tokens, which then compete for the first place; it is kept here for comparison.

    Takes the arguments of :class:`BoundedFineTuning`.
    """

    name = "FT-L"

    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """See :class:`FineTuning`."""
        encoded = encode_targets(tokenizer, requests)
        return replace(encoded, positions=encoded.positions[:, :1].expand_as(encoded.positions).contiguous())


class FTM(BoundedFineTuning):
    """Each token of the new answer is scored at its own position.

    Takes the arguments of :class:`BoundedFineTuning`.
    """

    name = "FT-M"

    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """See :class:`FineTuning`."""
        return encode_targets(tokenizer, requests)
