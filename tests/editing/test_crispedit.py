"""CrispEdit against torch's Adam on gradients that are projected component by component."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.covariance.curvature import Curvature
from lga_lightning.editing import CrispEdit, LocFT
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import assert_changes, curvatures, method_for, name_at
from tests.editing.tuning_by_hand import projection, tune
from tests.helpers.models import requests, tiny_model


def by_layer(found: dict[int, Curvature], energy: float):
    projections = {layer: projection(curvature, energy) for layer, curvature in found.items()}
    return lambda layer, gradient: projections[layer](gradient)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
@pytest.mark.parametrize("layers", [[2], [1, 2]])
def test_projected_tuning_by_definition(layers, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(7)
    method = method_for(CrispEdit, model, energy=0.6)
    project = by_layer(curvatures(model), 0.6)
    expected = tune(model, tokenizer, data, layers, method, project)
    assert_changes(model, method.compute(model, tokenizer, data, layers), expected)
    free = method_for(LocFT, model, end_of_text=False).compute(model, tokenizer, data, layers)
    assert (free.matrix(name_at(model, 2)) - expected[2]).abs().max() > 1e-3


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_groups_do_not_see_each_other(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(8)
    method = method_for(CrispEdit, model, end_of_text=True)
    project = by_layer(curvatures(model), method.energy)
    for request, delta in zip(data[:2], method.compute_each(model, tokenizer, data[:2], 2), strict=True):
        assert_changes(model, delta, tune(model, tokenizer, [request], [2], method, project))
    targets = [method.optimize_targets(model, tokenizer, group, [2]) for group in (data[:5], data[5:])]
    for group, delta in zip((data[:5], data[5:]), method.write(model, tokenizer, targets, [2]), strict=True):
        assert_changes(model, delta, tune(model, tokenizer, group, [2], method, project))


def curvature_of_edits(model, tokenizer, layer, group) -> Curvature:
    """Of all tokens of prompts and answers, one request at a time, from gradients at the module's outputs."""
    site, rows = edit_site(model, layer), {"keys": [], "gradients": []}
    for request in group:
        ids = tokenizer(request.prompt)["input_ids"]
        ids = ids + tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
        moved = torch.zeros(len(ids), site.out_features, dtype=torch.float64, requires_grad=True)

        def hook(module, args, output, moved=moved):
            rows["keys"].append(args[0].reshape(len(moved), -1)[:-1])
            return output + moved.view_as(output)

        with site.module.register_forward_hook(hook):
            logits = model(torch.tensor([ids])).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").backward()
        rows["gradients"].append(moved.grad[:-1])
    keys, gradients = (torch.cat(part) for part in rows.values())
    return Curvature(keys.T @ keys / len(keys), gradients.T @ gradients / len(keys), len(keys))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_a_session_keeps_clear_of_its_own_edits(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(8)
    method = method_for(CrispEdit, model, energy=0.6)
    session, tuned = EditSession(method, model, tokenizer, 2), tiny_model(family_name, torch.float64)
    total = curvatures(model)[2]
    for group in (data[:3], data[3:6], data[6:]):
        session.edit(group)
        change = tune(tuned, tokenizer, group, [2], method, by_layer({2: total}, 0.6))[2]
        edit_site(tuned, 2).weight.add_(change)
        added = curvature_of_edits(tuned, tokenizer, 2, group)
        share = added.tokens / (total.tokens + added.tokens)
        total = Curvature(
            (1 - share) * total.keys + share * added.keys,
            (1 - share) * total.gradients + share * added.gradients,
            total.tokens + added.tokens,
        )
    change = edit_site(tuned, 2).weight - edit_site(model, 2).weight
    torch.testing.assert_close(session.delta.matrix(name_at(model, 2)), change, rtol=1e-7, atol=1e-9)
    assert session.history[2].tokens == total.tokens - 200
    other = EditSession(method, model, tokenizer, 2)  # begins anew
    other.edit(data[:3])
    again = tune(model, tokenizer, data[:3], [2], method, by_layer(curvatures(model), 0.6))
    assert_changes(model, other.delta, again)


def test_the_curvature_is_that_of_the_unedited_model(tokenizer):
    model, data = tiny_model("llama"), requests(2)
    method = CrispEdit(epochs=1, curvature_tokens=64)
    session = EditSession(method, model, tokenizer, 1)
    session.edit(data[:1])
    found = method._curvatures[model][1]
    session.edit(data[1:])
    assert method._curvatures[model][1] is found
    assert found.tokens == 63  # of one piece of text


def test_settings(llama):
    for energy in (0.0, 1.0, -0.5):
        with pytest.raises(SettingError, match=r"`energy` is the share.*above 0 and below 1, got.*LocFT"):
            CrispEdit(energy=energy)
    with pytest.raises(SettingError, match="`curvature_tokens` must be at least 1"):
        CrispEdit(curvature_tokens=0)
    settings = CrispEdit(energy=0.7, seed=3).settings(llama)
    assert settings == {
        "name": "CrispEdit",
        "epochs": 25,
        "learning_rate": 5e-4,
        "stop_loss": 0.01,
        "batch_size": 32,
        "end_of_text": False,
        "seed": 3,
        "energy": 0.7,
        "curvature_text": "sampled",
        "curvature_tokens": 25600,
    }
