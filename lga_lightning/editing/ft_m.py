"""FT-M: fine-tuning with the cross-entropy masked to the new answer (EasyEdit)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lga_lightning.editing.finetune import FineTuning, encode_targets
from lga_lightning.encoding import EncodedAnswers
from lga_lightning.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class FTM(FineTuning):
    """Each token of the new answer is scored at its own position.

    Takes the arguments of :class:`FineTuning`.
    """

    name = "FT-M"

    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """See :class:`FineTuning`."""
        return encode_targets(tokenizer, requests)
