"""FT-L and FT-M against torch's Adam, one group at a time; and what all fine-tuning makes of a loss that is no number."""

from __future__ import annotations

import copy

import pytest
import torch

from lga_lightning.editing import FTL, FTM, CrispEdit, LocFT
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import ModelError
from lga_lightning.locators.layer_sweep import LayerSweep
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import assert_changes, method_for, name_at
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


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [FTL, FTM, LocFT, CrispEdit])
def test_a_loss_that_is_no_number_makes_no_edit_of_zeros(kind, broken, tokenizer, tmp_path):
    model, data = tiny_model("llama"), requests(8)
    method, expected = method_for(kind, model), method_for(kind, model).compute(model, tokenizer, data[:1], 2)
    ours = {token for request in data[:7] for token in tokenizer(f"{request.prompt} {request.target_new}")["input_ids"]}
    its_own = min(set(tokenizer(data[7].prompt)["input_ids"]) - ours)
    with torch.no_grad():
        model.get_input_embeddings().weight[its_own] = broken
    sound, lost = method.compute_each(model, tokenizer, [data[0], data[7]], 2)
    torch.testing.assert_close(sound.matrix(name_at(model, 2)), expected.matrix(name_at(model, 2)))
    group = method.compute(model, tokenizer, data[5:], 2)
    for delta in (lost, group):
        assert delta.matrix(name_at(model, 2)).isnan().all()
        with pytest.raises(ModelError, match=r"NaN or infinite, so it was not written.*lower the learning rate"):
            delta.save_pretrained(tmp_path / "lost", model)
    if method.keeps_history:
        session = EditSession(method, model, tokenizer, 2)
        with pytest.raises(ModelError, match="NaN or infinite"):
            session.edit(data[5:])
        assert not session.requests
        assert not session.history


def test_a_sweep_goes_on_where_training_overflows(tokenizer):
    model, method = tiny_model("llama"), FTM(steps=3, learning_rate=1e38, epsilon=None)
    scores = LayerSweep(method).score(model, tokenizer, requests(2)).values
    assert scores.count_nonzero() == 0
