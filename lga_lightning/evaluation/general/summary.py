"""From scores before and after the edits to means, their ratio, and intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lga_lightning.metrics.intervals import percentile_interval, resampled_means


def _same(values: Tensor) -> Tensor:
    return values


# by ability, in the order of the suite's columns: what becomes of the means, and what the number is
ABILITIES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "cloze": (
        _same,
        "share of questions whose right answer the model would write by itself: its every token is the model's first choice, "
        "teacher-forced",
    ),
    "choice": (
        _same,
        "share of questions whose right answer is likelier, by its mean log-likelihood a token, than up to three wrong answers "
        "of the same relation",
    ),
    "perplexity": (
        torch.exp,
        "exp of the mean over passages of plain text of their mean negative log-likelihood a token; lower is better",
    ),
}


def compare_scores(scores: Tensor, resamples: int = 1000) -> dict[str, dict[str, Any]]:
    """The abilities that the suite's scores show, as :func:`compare_means` has them, each with its ``protocol``.

    Args:
        scores: [N, 2, 3] as :class:`~lga_lightning.evaluation.general.GeneralSuite` gives them.
        resamples: Number of the bootstrap's draws of items.
    """
    entries = {}
    for column, (name, (transform, protocol)) in enumerate(ABILITIES.items()):
        rows = scores[:, :, column]
        rows = rows[~rows[:, 0].isnan()]
        if len(rows):
            entries[name] = {**compare_means(rows, resamples, transform), "protocol": protocol}
    return entries


def compare_means(rows: Tensor, resamples: int = 1000, transform: Callable[[Tensor], Tensor] = _same) -> dict[str, Any]:
    """Means before and after the edits and their ratio, with bootstrap intervals; the same draws for both sides.

    Args:
        rows: [N, 2] scores of items before and after. One that is not finite makes its side's mean, and all intervals, such.
        resamples: Number of the bootstrap's draws of items.
        transform: What becomes of means, as of those of a log-likelihood.

    Returns:
        ``before``, ``after``, ``ratio`` (after / before), ``before_ci``, ``after_ci``, ``ratio_ci`` (lower, upper) and ``num_items``.

    Example:
        >>> found = compare_means(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        >>> found["before"], found["after"], found["ratio"], found["num_items"]
        (1.0, 0.5, 0.5, 2)
    """
    means = _with_ratio(transform(rows.double().mean(0)))
    draws = _with_ratio(transform(resampled_means(rows, resamples)))
    ends = percentile_interval(draws) if rows.isfinite().all() else torch.full((2, 3), torch.nan)
    return {
        **dict(zip(("before", "after", "ratio"), means.tolist(), strict=True)),
        **dict(zip(("before_ci", "after_ci", "ratio_ci"), ends.T.tolist(), strict=True)),
        "num_items": len(rows),
    }


def _with_ratio(sides: Tensor) -> Tensor:
    """Before, after, and after / before, [..., 3]; NaN where before is 0."""
    before, after = sides.unbind(-1)
    ratio = (after / before).where(before != 0, torch.nan)
    return torch.stack([before, after, ratio], -1)
