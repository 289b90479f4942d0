"""ROME and R-ROME against their closed form."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing import ROME, RROME
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import assert_changes, method_for, name_at
from tests.helpers.models import requests, tiny_model

TWO_FAMILIES = pytest.mark.parametrize("family_name", ["llama", "gpt2"])
EXACT = pytest.mark.usefixtures("exact")


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", [ROME, RROME])
@pytest.mark.parametrize("moment", ["identity", "sampled"])
def test_rome_by_definition(kind, moment, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(4)
    method = method_for(kind, model, second_moment=moment)
    site = edit_site(model, 2)
    c = torch.eye(site.in_features).double() if moment == "identity" else method.covariance._covariances[model][2]
    targets = method.optimize_targets(model, tokenizer, data, [2])
    bias = site.module.bias if site.module.bias is not None else 0

    def change(row: int, weight: torch.Tensor) -> torch.Tensor:
        mean, bare = targets.keys[row].mean(0), targets.keys[row, 0]
        written = bare if kind is ROME else mean
        u = torch.linalg.inv(c) @ mean
        u = u / u.norm()
        value = targets.before[row] + targets.delta[row]
        lam = (value - weight @ written - bias) / (written @ u)
        # W' k* = v*
        torch.testing.assert_close((weight + torch.outer(lam, u)) @ written + bias, value, rtol=1e-8, atol=1e-8)
        return torch.outer(lam, u)

    for row, delta in enumerate(method.compute_each(model, tokenizer, data, 2)):
        assert delta.ranks == {site.name: 1}
        assert_changes(model, delta, {2: change(row, site.weight)})
    # a batch: found together, written one after the other
    weight = site.weight.clone()
    for row in range(len(data)):
        weight += change(row, weight)
    assert_changes(model, method.compute(model, tokenizer, data, 2, batch_size=3), {2: weight - site.weight})


@EXACT
@TWO_FAMILIES
def test_rome_on_several_layers_edits_one_after_the_other(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(2)
    method = method_for(RROME, model)
    both = method.compute_each(model, tokenizer, data, [0, 2])
    for request, delta in zip(data, both, strict=True):
        first = method.compute(model, tokenizer, [request], 0)
        with first.applied(model):
            second = method.compute(model, tokenizer, [request], 2)
        assert_changes(model, delta, {0: first.matrix(name_at(model, 0)), 2: second.matrix(name_at(model, 2))})
