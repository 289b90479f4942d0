"""From results to a table: means over requests with their confidence intervals, each with its protocol in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lga_lightning.evaluation.edit_metrics import BUILT_IN, Magnitude, NegativeLogLikelihood, Success, TokenAccuracy
from lga_lightning.evaluation.metric import EditMetric, Grouped
from lga_lightning.evaluation.own_words import OWN_WORDS
from lga_lightning.evaluation.prompts import FAMILIES, NEIGHBORHOOD, PERPLEXITY, PROBES, family_of
from lga_lightning.evaluation.protocols import PROTOCOLS, ProtocolName
from lga_lightning.evaluation.results import EvalResult, mean_scores
from lga_lightning.metrics.counterfact import harmonic_mean
from lga_lightning.metrics.intervals import percentile_interval, resampled_means

COUNTERFACT: dict[str, tuple[str, type[Grouped]]] = {
    "counterfact.ES": ("rewrite", Success),
    "counterfact.PS": ("rephrase", Success),
    "counterfact.NS": (NEIGHBORHOOD, Success),
    "counterfact.EM": ("rewrite", Magnitude),
    "counterfact.PM": ("rephrase", Magnitude),
    "counterfact.NM": (NEIGHBORHOOD, Magnitude),
}
SUCCESSES = {name: group for name, (group, metric) in COUNTERFACT.items() if metric is Success}

INTERVALS = "95% percentile interval of {resamples} bootstrap resamples of the requests, seed 0"


def summarise(
    results: Sequence[Sequence[EvalResult]],
    max_new_tokens: int = 50,
    resamples: int = 1000,
    metrics: Sequence[EditMetric] = (),
    protocol: ProtocolName = "completion",
) -> dict[str, dict[str, Any]]:
    """Means over requests, before and after the edit, of everything that was scored.

    Args:
        results: N requests' results.
        max_new_tokens: What answers were cut at, for the protocol.
        resamples: Number of the bootstrap's draws.
        metrics: Metrics beside the built-in ones.
        protocol: How the model was let speak, for the protocol.

    Returns:
        By metric: ``before``, ``after``, their intervals ``before_ci`` and ``after_ci`` (lower, upper), ``num_requests`` that
        have it, and its ``protocol``. Beside the metrics of tokens the same of the model's own words: ``generated`` (nothing but
        the answer), ``contained`` (the answer in it), and the others of ``OWN_WORDS`` that were taken.
    """
    table = _Table(results, resamples)
    groups = {result.group for of_request in results for result in of_request}
    entries: dict[str, dict[str, Any]] = {}
    spoken, limit = PROTOCOLS[protocol], {"limit": max_new_tokens}
    for family in (*FAMILIES, *PROBES):
        kinds = sorted(group for group in groups if family_of(group) == family)
        for name in dict.fromkeys([family, *kinds]) if kinds else ():
            entries[name] = table.entry(name, "token", TokenAccuracy.protocols[family])
            for metric in OWN_WORDS:
                if family in metric.protocols:
                    words = spoken.in_context if metric.in_context else spoken.words
                    said = metric.protocols[family].format(words=words.format(**limit), **limit)
                    entry = table.entry(name, metric.name, said)
                    entries[name] |= {metric.name: entry} if entry["num_requests"] else {}
    single = {name: table.entry(group, m.name, m.protocols[group]) for name, (group, m) in COUNTERFACT.items()}
    entries |= {name: entry for name, entry in single.items() if entry["num_requests"]}
    if all(name in entries for name in SUCCESSES):
        entries["counterfact.S"] = table.harmonic([(group, Success.name) for group in SUCCESSES.values()])
    over_all = [metric for metric in (*BUILT_IN, *metrics) if not isinstance(metric, Grouped)]
    single = {metric.name: table.entry(None, metric.name, metric.protocol) for metric in over_all}
    entries |= {name: entry for name, entry in single.items() if entry["num_requests"]}
    if PERPLEXITY in groups:
        nll = NegativeLogLikelihood
        entries[PERPLEXITY] = table.entry(PERPLEXITY, nll.name, nll.protocols[PERPLEXITY], torch.exp)
    return entries


def mean_by_group(results: Sequence[EvalResult]) -> dict[str, dict[str, Any]]:
    """One request's scores, before and after, by group of prompts; all but those of tokens under their metric's name.

    Args:
        results: The request's results.
    """
    groups: dict[str, dict[str, Any]] = {}
    for group in dict.fromkeys(result.group for result in results):
        sides = {
            metric: dict(zip(("before", "after"), mean_scores([results], group, metric)[0].tolist(), strict=True))
            for metric in dict.fromkeys(metric for one in results if one.group == group for metric in one.scores)
        }
        first = sides.pop("token", None) or sides.pop(group, {})
        groups[group] = {**first, **sides}
    return groups


class _Table:
    """Means and their bootstrap draws, the same draws for all."""

    def __init__(self, results: Sequence[Sequence[EvalResult]], resamples: int) -> None:
        self.results, self.resamples = results, resamples

    def entry(
        self, group: str | None, metric: str, protocol: str, transform: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Any]:
        """The entry of one group and metric; a transform is applied to means, not to single requests."""
        scores = mean_scores(self.results, group, metric)
        means, draws = self._means(scores)
        if transform is not None:
            means, draws = transform(means), transform(draws)
        return _entry(means, draws, int(_have_prompt(scores).sum()), protocol)

    def harmonic(self, parts: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The entry of the harmonic mean of several groups' and metrics' means."""
        scores = [mean_scores(self.results, *part) for part in parts]
        means, draws = zip(*map(self._means, scores), strict=True)
        count = int(torch.stack([*map(_have_prompt, scores)]).all(0).sum())
        protocol = "harmonic mean of ES, PS and NS"
        return _entry(harmonic_mean(torch.stack(means, -1)), harmonic_mean(torch.stack(draws, -1)), count, protocol)

    def _means(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Means [2] of [N, 2] scores before and after, and their draws [R, 2]; a score that is not finite makes its side's such."""
        known = scores[_have_prompt(scores)]
        draws = resampled_means(scores, self.resamples)
        draws[:, ~known.isfinite().all(0)] = math.nan
        return known.mean(0), draws


def _have_prompt(scores: Tensor) -> Tensor:
    """Which requests [N] have a prompt: those with a score before the edit, which may have broken the model."""
    return ~scores[:, 0].isnan()


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
