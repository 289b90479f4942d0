"""FT-L (arXiv 2012.00363, as the ROME paper and EasyEdit run it): fine-tuning with a bound on every entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lga_lightning.editing.finetune import FineTuning, encode_targets
from lga_lightning.encoding import EncodedAnswers
from lga_lightning.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class FTL(FineTuning):
    """Every token of the new answer is scored at the prompt's last position, as in the public code.

    That is wrong for answers of several tokens, which then compete for the first place; it is kept here for comparison.

    Takes the arguments of :class:`FineTuning`.
    """

    name = "FT-L"

    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """See :class:`FineTuning`."""
        encoded = encode_targets(tokenizer, requests)
        return replace(encoded, positions=encoded.positions[:, :1].expand_as(encoded.positions).contiguous())
