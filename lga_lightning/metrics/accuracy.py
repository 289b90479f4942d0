"""Teacher-forced token metrics."""

from __future__ import annotations

from torch import Tensor

from lga_lightning.models.encoding import IGNORE


def token_accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of each answer's tokens that are predicted right, given the right tokens before them.

    Args:
        predictions: [N, A] most likely tokens.
        labels: [N, A] the answer's tokens, ``IGNORE`` on padding.

    Returns:
        [N] shares.

    Example:
        >>> import torch
        >>> token_accuracy(torch.tensor([[5, 6, 0]]), torch.tensor([[5, 7, -100]]))
        tensor([0.5000])
    """
    return _share(predictions == labels, labels)


def unchanged_tokens(before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
    """Share of each answer's tokens at which the prediction is what it was before the edit.

    Args:
        before: [N, A] most likely tokens before the edit.
        after: [N, A] most likely tokens after it.
        labels: [N, A] the answer's tokens, which give the length, ``IGNORE`` on padding.

    Returns:
        [N] shares.
    """
    return _share(before == after, labels)


def _share(hits: Tensor, labels: Tensor) -> Tensor:
    counted = labels != IGNORE
    return (hits & counted).sum(1) / counted.sum(1)
