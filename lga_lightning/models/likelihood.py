"""Teacher-forced passes: what a model makes of given answers, in one forward pass a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from lga_lightning.models.encoding import IGNORE, EncodedAnswers
from lga_lightning.models.hooks import logits_at
from lga_lightning.models.storage import device_of
from lga_lightning.utils.tensors import at_least_float32


def answer_logits(model: PreTrainedModel, batch: EncodedAnswers, positions: Tensor | None = None) -> Tensor:
    """Logits [N, A, V] that predict the answers' tokens, in float32 or better.

    Args:
        model: A causal language model.
        batch: N rows of prompt and answer, on the model's device.
        positions: Other positions [N, P] than those of the answers.
    """
    with logits_at(model, batch.positions if positions is None else positions):
        logits: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
    return at_least_float32(logits)


def answer_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of each row's answer.

    Args:
        logits: [N, A, V] logits.
        labels: [N, A] tokens, ``IGNORE`` on padding.

    Returns:
        [N] nats a token.
    """
    return mean_nll(token_nll(logits, labels), labels)


def mean_nll(each: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of each answer.

    Args:
        each: [N, A] nats of the tokens, 0 on padding, as :func:`token_nll` gives them.
        labels: [N, A] tokens, ``IGNORE`` on padding.

    Returns:
        [N] nats a token.
    """
    return each.sum(1) / (labels != IGNORE).sum(1).to(each.device)


def token_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each token.

    Args:
        logits: [..., V] logits.
        labels: [...] tokens, ``IGNORE`` on padding.

    Returns:
        [...] nats, 0 on padding.
    """
    labels = labels.to(logits.device)
    counted = labels != IGNORE
    right = logits.gather(-1, labels.where(counted, 0).unsqueeze(-1)).squeeze(-1)
    return (_log_normaliser(logits) - right) * counted


def _log_normaliser(logits: Tensor, width: int = 512) -> Tensor:
    """Log-sum-exp over the vocabulary, [..., V] -> [...], in two levels.

    In one, a CPU adds 50k small numbers to a sum near 1 in float32, and loses 1e-4: three digits of 1 - p for an answer that
    the model is sure of, and with them three digits of its gradient.
    """
    filled = functional.pad(logits, (0, -logits.shape[-1] % width), value=-torch.inf)
    return filled.unflatten(-1, (-1, width)).logsumexp(-1).logsumexp(-1)


def without_peft(model: PreTrainedModel) -> Any:
    """The model itself, of one within PEFT what is within, with its adapters in place.

    Args:
        model: A causal language model.
    """
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def input_device(model: PreTrainedModel) -> torch.device:
    """The device on which a model takes its token ids."""
    return device_of(model.get_input_embeddings())
