"""CounterFact's scores: does the answer that should win beat its alternative? Source: ROME (arXiv 2202.05262), section 3.4."""

from __future__ import annotations

from torch import Tensor


def success(nll: Tensor, alternative_nll: Tensor) -> Tensor:
    """Whether an answer is more likely than its alternative, by the mean negative log-likelihood of its tokens.

    On rewrite and rephrase prompts the answer is the new target and the alternative the old one: the mean is ES and PS. On
    neighbourhood prompts it is the other way round: NS. A tie is no success.

    Args:
        nll: [N] nats a token.
        alternative_nll: [N] nats a token.

    Returns:
        [N] 0 or 1.

    Example:
        >>> import torch
        >>> success(torch.tensor([0.5, 2.0]), torch.tensor([1.0, 1.0]))
        tensor([1., 0.], dtype=torch.float64)
    """
    return (nll < alternative_nll).double()


def magnitude(nll: Tensor, alternative_nll: Tensor) -> Tensor:
    """By how much an answer is more likely than its alternative: p(answer) - p(alternative), with p = exp(-mean NLL).

    The means are EM, PM and NM, for the same prompts as ES, PS and NS.

    Args:
        nll: [N] nats a token.
        alternative_nll: [N] nats a token.

    Returns:
        [N] differences between -1 and 1.

    Example:
        >>> import torch
        >>> magnitude(torch.tensor([0.0]), torch.tensor([0.5]).log().neg())
        tensor([0.5000], dtype=torch.float64)
    """
    return (-nll.double()).exp() - (-alternative_nll.double()).exp()


def harmonic_mean(values: Tensor) -> Tensor:
    """Harmonic mean over the last dimension; 0 where one of the values is 0. Of ES, PS and NS: ROME's score S.

    Args:
        values: [..., K] values that are not negative.

    Example:
        >>> import torch
        >>> harmonic_mean(torch.tensor([1.0, 0.5, 0.5]))
        tensor(0.6000)
    """
    return values.shape[-1] / (1 / values).sum(-1)
