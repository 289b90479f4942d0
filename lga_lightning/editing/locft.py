"""LocFT-BF (arXiv 2509.22072): breadth-first fine-tuning of one out-projection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing.finetune import encode_targets
from lga_lightning.editing.presets import preset_for
from lga_lightning.editing.tuning import FineTuning
from lga_lightning.exceptions import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest
    from lga_lightning.models.encoding import EncodedAnswers


class BreadthFirstTuning(FineTuning):
    """Epochs over all requests of a group, in mini-batches and a new order each time (arXiv 2509.22072).

    The loss is the cross-entropy of the answer's tokens, and of the end of the text behind it where that is asked for: the mean over
    an answer's tokens, and over the answers of a mini-batch.

    Args:
        epochs: Number of epochs, at most.
        batch_size: Number of requests of a mini-batch.
        learning_rate: Learning rate of Adam.
        stop_loss: Mean loss of a mini-batch below which there is no step, and of an epoch below which there is no other.
        end_of_text: Whether answers end with the tokenizer's end-of-text token, so that the model learns to stop there.
        seed: Seed of the orders. Groups of the same size are gone through in the same orders.
    """

    rounds_setting = "epochs"

    def __init__(
        self,
        epochs: int = 25,
        batch_size: int = 100,
        learning_rate: float = 5e-4,
        stop_loss: float = 0.01,
        end_of_text: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(epochs, learning_rate, stop_loss, batch_size)
        self.end_of_text = end_of_text
        self.seed = seed

    def orders(self, count: int) -> Iterator[Tensor]:
        """Random ones; see :class:`FineTuning`."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield torch.randperm(count, generator=generator)

    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """Each token of the answer, and the end of the text, at its own position.

        Raises:
            ModelError: If the end of the text is asked for, and the tokenizer has no token for it.
        """
        if not self.end_of_text:
            return encode_targets(tokenizer, requests)
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"{self.name} teaches answers with the end of the text behind them, and the tokenizer of {tokenizer.name_or_path!r} "
                "has no end-of-text token (`eos_token`). Give it one, or leave the end out (--model.editor.end_of_text false)."
            )
        return encode_targets(tokenizer, requests, [tokenizer.eos_token_id])

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        return {**super().settings(model), "end_of_text": self.end_of_text, "seed": self.seed}


class LocFT(BreadthFirstTuning):
    """Breadth-first fine-tuning with no bounds, and with nothing to tell it what to leave alone.

    It is meant for many facts at once (the mode ``batch``). Weight decay is 0 in the paper's settings, and left out.

    Takes the arguments of :class:`BreadthFirstTuning`.
    """

    name = "LocFT-BF"

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """One block; see :func:`preset_for`."""
        return [preset_for(model).locft_layer]
