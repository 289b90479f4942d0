"""FT-L and FT-M against torch's Adam, one group at a time."""

from __future__ import annotations

import copy

import pytest
import torch

from lga_lightning.editing import FTL, FTM
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import assert_changes, method_for
from tests.helpers.models import requests, tiny_model


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", [FTL, FTM])
@pytest.mark.parametrize("layers", [[2], [1, 2]])
def test_fine_tuning_by_definition(kind, layers, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method = method_for(kind, model)

    def plain(group):
        tuned = copy.deepcopy(model)
        weights = [edit_site(tuned, layer).module.weight.requires_grad_() for layer in layers]
        old = [weight.detach().clone() for weight in weights]
        adam = torch.optim.Adam(weights, lr=method.learning_rate)
        for _ in range(method.steps):
            for start in range(0, len(group), 3):
                losses = []
                for request in group[start : start + 3]:
                    ids = tokenizer(request.prompt)["input_ids"]
                    target = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
                    logits = tuned(torch.tensor([ids + target])).logits[0].log_softmax(-1)
                    at = torch.full((len(target),), len(ids) - 1)
                    at = at if kind is FTL else at + torch.arange(len(target))
                    losses.append(-logits[at, target].mean())
                adam.zero_grad()
                torch.stack(losses).mean().backward()
                adam.step()
                with torch.no_grad():
                    for weight, before in zip(weights, old, strict=True):
                        weight.copy_(weight.clamp(before - method.epsilon, before + method.epsilon))
        sites = [edit_site(tuned, layer) for layer in layers]
        return {
            layer: site.weight.detach() - edit_site(model, layer).weight
            for layer, site in zip(layers, sites, strict=True)
        }

    assert_changes(model, method.compute(model, tokenizer, data, layers), plain(data))
    for request, delta in zip(data[:2], method.compute_each(model, tokenizer, data[:2], layers), strict=True):
        assert_changes(model, delta, plain([request]))


def test_fine_tuning_stops_where_it_is_good_enough(tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(4)
    method = FTM(steps=60, learning_rate=5e-3, epsilon=None, stop_loss=5.3)
    for request, delta in zip(data, method.compute_each(model, tokenizer, data, 2), strict=True):
        with delta.attached(model):
            ids = tokenizer(request.prompt)["input_ids"]
            target = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
            logits = model(torch.tensor([ids + target])).logits[0].log_softmax(-1)
        loss = -logits[torch.arange(len(target)) + len(ids) - 1, target].mean()
        assert 5.1 < loss < 5.3  # below the bound, and not much below
