"""Edits that change much."""

from __future__ import annotations

import torch
from torch import Tensor

from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.models.architecture import edit_site


def random_edits(model, count: int, layer: int = 1, rank: int = 1) -> list[WeightDelta]:
    """Edits that change much of what the model says; dense ones for rank 0."""
    site = edit_site(model, layer)
    generator = torch.Generator().manual_seed(5)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    if not rank:
        return [WeightDelta({site.name: DenseUpdate(draw(site.out_features, site.in_features))}) for _ in range(count)]
    return [
        WeightDelta({site.name: LowRankUpdate(draw(site.out_features, rank) / rank, draw(rank, site.in_features))})
        for _ in range(count)
    ]


def token_scores(model, tokenizer, data, deltas: list[WeightDelta], max_rows: int = 64) -> dict[str, Tensor]:
    """By group of prompts, each request's teacher-forced token scores [N, 2], before the edit and after."""
    results = evaluate(model, tokenizer, data, deltas, EvaluationConfig(generate=False, max_rows=max_rows))
    groups = dict.fromkeys(result.group for of_request in results for result in of_request)
    return {group: mean_scores(results, group, "token") for group in groups}
