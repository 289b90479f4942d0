"""Metrics: pure functions, and torchmetrics Metrics that give the same on one process and on several."""

from lga_lightning.metrics.tables import LayerScores, RequestTable
from lga_lightning.metrics.tokens import token_accuracy, unchanged_tokens

__all__ = ["LayerScores", "RequestTable", "token_accuracy", "unchanged_tokens"]
