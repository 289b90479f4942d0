"""Teacher-forced passes: what a model makes of given answers, in one forward pass a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from lga_lightning.encoding import IGNORE, EncodedAnswers
from lga_lightning.hooks import logits_at


def answer_logits(model: PreTrainedModel, batch: EncodedAnswers) -> Tensor:
    """Logits [N, A, V] that predict the answer's tokens, in float32 or better."""
    with logits_at(model, batch.positions):
        logits: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
    return logits if logits.dtype == torch.float64 else logits.float()


def answer_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of each row's answer.

    Args:
        logits: [N, A, V] logits.
        labels: [N, A] tokens, ``IGNORE`` on padding.

    Returns:
        [N] nats a token.
    """
    nll = functional.cross_entropy(
        logits.transpose(1, 2), labels.to(logits.device), ignore_index=IGNORE, reduction="none"
    )
    return nll.sum(1) / (labels != IGNORE).sum(1).to(nll.device)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model wants its token ids."""
    device: torch.device = model.get_input_embeddings().weight.device
    return device
