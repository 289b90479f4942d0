"""Edits that change much."""

from __future__ import annotations

import torch

from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate
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
