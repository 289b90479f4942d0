"""From outcomes to a table: means over requests with their confidence intervals, each with its protocol in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lga_lightning.evaluation.prompts import FLUENCY, NEIGHBORHOOD, PERPLEXITY
from lga_lightning.evaluation.results import EvalResult, mean_scores
from lga_lightning.metrics.counterfact import harmonic_mean
from lga_lightning.metrics.intervals import percentile_interval, resampled_means

FAMILIES = ("rewrite", "rephrase", "portability", "locality")

TOKEN = {
    "rewrite": "token accuracy of target_new on the prompt, teacher-forced",
    "rephrase": "token accuracy of target_new, teacher-forced, mean over the request's rephrases",
    "portability": "token accuracy of a probe's first answer, teacher-forced, mean over probes, then over kinds",
    "locality": "share of a probe's first answer's tokens at which the prediction is that of the unedited model, "
    "teacher-forced, mean over probes, then over kinds",
}

_WORDS = (
    "the model's greedy answer, up to a newline, a full stop or the end of the text, at most {limit} tokens, normalised (lower "
    "case, no punctuation, no articles), "
)
GENERATED = {
    "rewrite": _WORDS + "is target_new or an alias",
    "rephrase": _WORDS + "is target_new or an alias; mean over the request's rephrases",
    "portability": _WORDS + "is one of a probe's answers; mean over probes, then over kinds",
    "locality": _WORDS + "is that of the unedited model; mean over probes, then over kinds",
}
BEGINS = "as `generated`, but the model may go on behind the answer: what it says begins with it"

_LIKELIER = "share of {where} on which {answer} has the lower mean negative log-likelihood a token than {alternative}"
_DIFFERENCE = "p({answer}) - p({alternative}) on {where}, with p = exp(-mean negative log-likelihood a token)"
_NEW = {"answer": "target_new", "alternative": "target_old"}
_COMPARISONS = {
    "E": ("rewrite", {"where": "prompts", **_NEW}),
    "P": ("rephrase", {"where": "rephrases", **_NEW}),
    "N": (NEIGHBORHOOD, {"where": "neighborhood probes", "answer": "the probe's answer", "alternative": "target_new"}),
}
COMPARISONS = {
    f"counterfact.{letter}{suffix}": (group, measure, protocol.format(**words))
    for suffix, measure, protocol in (("S", "success", _LIKELIER), ("M", "magnitude", _DIFFERENCE))
    for letter, (group, words) in _COMPARISONS.items()
}

OTHERS = {
    FLUENCY: (
        "fluency",
        "weighted entropy in bits of the 2- and 3-grams (weights 2/3 and 4/3, then mean) of the words in 100 tokens that the "
        "model continues the generation prompts (without any: the prompt) with, greedily",
    ),
    PERPLEXITY: (
        "nll",
        "exp of the mean over requests of the mean negative log-likelihood a token of one passage of plain text",
    ),
}

INTERVALS = "95% percentile interval of {resamples} bootstrap resamples of the requests, seed {seed}"


def summarise(
    outcomes: Sequence[Sequence[EvalResult]], max_new_tokens: int = 50, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Means over requests, before and after the edit, of everything that was measured.

    Args:
        outcomes: N requests' outcomes.
        max_new_tokens: What answers were cut at, for the protocol.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        By metric: ``before``, ``after``, their intervals ``before_ci`` and ``after_ci`` (lower, upper), ``num_requests`` that
        have it, and its ``protocol``. Beside the metrics of tokens the same of the model's own words: ``generated`` (nothing but
        the answer) and ``begins`` (the answer, and more).
    """
    table = _Table(outcomes, resamples, seed)
    groups = {outcome.group for of_request in outcomes for outcome in of_request}
    metrics: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        kinds = sorted(group for group in groups if group.split(".")[0] == family)
        for name in dict.fromkeys([family, *kinds]) if kinds else ():
            metrics[name] = table.entry(name, "token", TOKEN[family])
            generated = table.entry(name, "generated", GENERATED[family].format(limit=max_new_tokens))
            if generated["num_requests"]:
                metrics[name]["generated"] = generated
                begins = table.entry(name, "begins", BEGINS)
                metrics[name] |= {"begins": begins} if begins["num_requests"] else {}
    comparisons = {name: table.entry(*comparison) for name, comparison in COMPARISONS.items()}
    metrics |= {name: entry for name, entry in comparisons.items() if entry["num_requests"]}
    successes = [f"counterfact.{letter}S" for letter in _COMPARISONS]
    if all(name in metrics for name in successes):
        metrics["counterfact.S"] = table.harmonic([COMPARISONS[name][:2] for name in successes])
    for name, (measure, protocol) in OTHERS.items():
        if name in groups:
            metrics[name] = table.entry(name, measure, protocol, torch.exp if name == PERPLEXITY else None)
    return metrics


def mean_by_group(outcomes: Sequence[EvalResult]) -> dict[str, dict[str, Any]]:
    """One request's scores, before and after, by group of questions; those of the model's own words under ``generated``.

    Args:
        outcomes: The request's outcomes.
    """
    groups: dict[str, dict[str, Any]] = {}
    for group in dict.fromkeys(outcome.group for outcome in outcomes):
        sides = {
            measure: dict(zip(("before", "after"), mean_scores([outcomes], group, measure)[0].tolist(), strict=True))
            for measure in dict.fromkeys(measure for one in outcomes if one.group == group for measure in one.scores)
        }
        first = sides.pop("token", None) or sides.pop(group, {})
        groups[group] = {**first, **sides}
    return groups


class _Table:
    """Means and their bootstrap draws, the same draws for all."""

    def __init__(self, outcomes: Sequence[Sequence[EvalResult]], resamples: int, seed: int) -> None:
        self.outcomes, self.resamples, self.seed = outcomes, resamples, seed

    def entry(
        self, group: str, measure: str, protocol: str, transform: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Any]:
        """Of one group and measure; a transform is applied to means, not to single requests."""
        scores = mean_scores(self.outcomes, group, measure)
        means, draws = scores.nanmean(0), resampled_means(scores, self.resamples, self.seed)
        if transform is not None:
            means, draws = transform(means), transform(draws)
        return _entry(means, draws, int(scores[:, 0].isfinite().sum()), protocol)

    def harmonic(self, parts: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Of the means of several groups and measures."""
        scores = torch.stack([mean_scores(self.outcomes, *part) for part in parts], 2)  # [N, 2, K]
        draws = resampled_means(scores.flatten(1), self.resamples, self.seed).unflatten(1, scores.shape[1:])
        count = int(scores[:, 0].isfinite().all(1).sum())
        protocol = "harmonic mean of ES, PS and NS"
        return _entry(harmonic_mean(scores.nanmean(0)), harmonic_mean(draws), count, protocol)


def _entry(means: Tensor, draws: Tensor, count: int, protocol: str) -> dict[str, Any]:
    before, after = means.tolist()
    before_ci, after_ci = percentile_interval(draws).T.tolist()
    return {
        "before": before,
        "after": after,
        "before_ci": before_ci,
        "after_ci": after_ci,
        "num_requests": count,
        "protocol": protocol,
    }
