"""Metrics: pure functions, and torchmetrics Metrics that give the same on one process and on several."""

from lga_lightning.metrics.accuracy import token_accuracy, unchanged_tokens
from lga_lightning.metrics.counterfact import harmonic_mean, magnitude, success
from lga_lightning.metrics.gather import LayerScores, RequestRecords, RequestTable
from lga_lightning.metrics.intervals import percentile_interval, resampled_means
from lga_lightning.metrics.text import begins_with, contains, exact_match, ngram_entropy, normalised

__all__ = [
    "LayerScores",
    "RequestRecords",
    "RequestTable",
    "begins_with",
    "contains",
    "exact_match",
    "harmonic_mean",
    "magnitude",
    "ngram_entropy",
    "normalised",
    "percentile_interval",
    "resampled_means",
    "success",
    "token_accuracy",
    "unchanged_tokens",
]
