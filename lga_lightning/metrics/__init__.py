"""Metrics: pure functions, and torchmetrics Metrics that give the same on one process and on several."""

from lga_lightning.metrics.contests import harmonic_mean, magnitude, success
from lga_lightning.metrics.intervals import percentile_interval, resampled_means
from lga_lightning.metrics.records import RequestRecords
from lga_lightning.metrics.tables import LayerScores, RequestTable
from lga_lightning.metrics.texts import begins_with, exact_match, ngram_entropy, normalised
from lga_lightning.metrics.tokens import token_accuracy, unchanged_tokens

__all__ = [
    "LayerScores",
    "RequestRecords",
    "RequestTable",
    "begins_with",
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
