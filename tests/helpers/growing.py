"""A method whose edits add up: every request changes the matrix along the same direction, by the same share of its norm."""

from __future__ import annotations

import torch

from lga_lightning.editing import EditMethod, LowRankUpdate, WeightDelta
from lga_lightning.editing.in_place import unedited_weight
from lga_lightning.editing.targets import EditTargets
from lga_lightning.models.architecture import edit_site


class Growing(EditMethod):
    """N requests change a matrix by N times ``step`` of its norm.

    Args:
        step: The share of a single request.
    """

    name = "growing"
    needs_subject = False

    def __init__(self, step: float = 0.1) -> None:
        self.step = step

    def optimize_targets(self, model, tokenizer, requests, layers):
        return EditTargets(list(requests))

    def write(self, model, tokenizer, groups, layers, history=None):
        return [self.delta(model, layers, len(group.requests)) for group in groups]

    def delta(self, model, layers, count: int) -> WeightDelta:
        """What so many requests change."""
        updates = {}
        for layer in layers:
            site = edit_site(model, layer)
            generator = torch.Generator().manual_seed(layer)
            b = torch.randn(site.out_features, 1, generator=generator).to(site.weight)
            a = torch.randn(1, site.in_features, generator=generator).to(site.weight)
            size = self.step * count * unedited_weight(model, site).norm()
            updates[site.name] = LowRankUpdate(b * size / (b.norm() * a.norm()), a)
        return WeightDelta(updates)

    def settings(self, model):
        return {"name": self.name, "step": self.step}

    def default_layers(self, model):
        return [1]
