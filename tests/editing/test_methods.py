"""Every editing method against its definition, written out plainly for one group of requests at a time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME, AlphaEdit, EditMethod
from lga_lightning.editing.context_templates import in_contexts
from lga_lightning.editing.presets import preset_for
from lga_lightning.exceptions import DataError, LayerError, SettingError
from lga_lightning.models import architecture as families
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.encoding import subject_last_token
from tests.helpers.models import requests, tiny_model

SPREAD = [MEMIT, EMMET, AlphaEdit, PMET]
ALL = [ROME, RROME, *SPREAD, FTL, FTM]
QUICK = {"steps": 4, "context_lengths": (3, 4), "contexts_each": 2}
TWO_FAMILIES = pytest.mark.parametrize("family_name", ["llama", "gpt2"])
EXACT = pytest.mark.usefixtures("exact")


def second_moments(model, layers) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = {}
    for layer in layers:
        width = edit_site(model, layer).in_features
        keys = torch.randn(3 * width, width, generator=generator, dtype=torch.float64)
        keys[:, width // 2 :] *= 0.05  # a part of the space that is hardly used, for AlphaEdit
        found[layer] = keys.T @ keys / len(keys)
    return found


def method_for(kind: type[EditMethod], model, **settings) -> EditMethod:
    """A quick method with second moments of its own for the model."""
    if kind in (FTL, FTM):
        return kind(steps=3, learning_rate=1e-2, epsilon=2e-2, batch_size=3, **settings)
    if kind is AlphaEdit:
        settings.setdefault("l2", 0.1)
    if kind in (MEMIT, PMET):
        settings.setdefault("moment_weight", 2.0)
    if kind is EMMET:
        settings.setdefault("moment_weight", 3.0)
    method = kind(**{**QUICK, "second_moment": "sampled", **settings})
    method.second_moment._moments[model] = second_moments(model, range(4))
    return method


def look(model, tokenizer, request, contexts, layer, place):
    """Keys [K, d_in] of one request at a layer, and a module's output [d] on the bare prompt: whole passes, one by one."""
    site = edit_site(model, layer)
    keys, values = [], []
    for text in in_contexts([request], contexts)[0]:
        ids = tokenizer(text)["input_ids"]
        at = subject_last_token(tokenizer, request.prompt, request.subject)
        at += len(ids) - len(tokenizer(request.prompt)["input_ids"])

        def key(module, args, ids=ids, at=at):
            keys.append(args[0].reshape(1, len(ids), -1)[0, at])

        def value(module, args, output, ids=ids, at=at):
            values.append((output[0] if isinstance(output, tuple) else output).reshape(1, len(ids), -1)[0, at])

        handles = [site.module.register_forward_pre_hook(key), place.register_forward_hook(value)]
        try:
            model(torch.tensor([ids]))
        finally:
            for handle in handles:
                handle.remove()
    return torch.stack(keys), values[0]


def plain_spread(kind, method, model, tokenizer, data, layers, earlier):
    """Changes [d_out, d_in] by layer, as the papers write them, on a copy of the model that is edited on the way."""
    contexts = method.contexts.of(model, tokenizer)
    moments = method.second_moment._moments[model]
    place = method.intervention_modules(model, layers[-1])[-1]
    found = method.optimize_targets(model, tokenizer, data, layers)
    values = found.before + found.delta
    edited = copy.deepcopy(model)
    place = dict(edited.named_modules())[next(name for name, module in model.named_modules() if module is place)]
    changes = {}
    for number, layer in enumerate(layers):
        looked = [look(edited, tokenizer, request, contexts, layer, place) for request in data]
        # the bare prompt, and the texts of each of two lengths, weigh a third each
        k = torch.stack([keys[0] / 3 + keys[1:3].mean(0) / 3 + keys[3:5].mean(0) / 3 for keys, _ in looked], 1)
        r = (values - torch.stack([h for _, h in looked])).T
        left = len(layers) - number
        r = r / (left**0.5 if kind is PMET else left)
        c, eye = moments[layer], torch.eye(len(k)).double()
        if kind in (MEMIT, PMET):
            change = r @ k.T @ torch.linalg.inv(2.0 * c + k @ k.T)
        elif kind is EMMET:
            inverse = torch.linalg.inv(3.0 * c)
            alpha = 0.1 * torch.eye(len(data)).double() if len(data) > 1 else 0
            change = r @ torch.linalg.inv(k.T @ inverse @ k + alpha) @ k.T @ inverse
        else:
            u, s, _ = torch.linalg.svd(c)
            p = u[:, s < 0.02] @ u[:, s < 0.02].T
            gram = k @ k.T + (earlier[layer].T @ earlier[layer] if earlier else 0)
            change = torch.linalg.solve(p @ gram + 0.1 * eye, p @ k @ r.T).T
        edit_site(edited, layer).weight.add_(change)
        changes[layer] = change
    return changes


def assert_changes(delta, changes):
    assert sorted(delta.factors) == sorted(changes)
    for layer, change in changes.items():
        assert change.abs().max() > 1e-4
        torch.testing.assert_close(delta.matrix(layer), change, rtol=1e-8, atol=1e-10)


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", SPREAD)
@pytest.mark.parametrize("layers", [[2], [0, 1, 2]])
def test_a_batch_by_definition(kind, layers, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method = method_for(kind, model)
    changes = plain_spread(kind, method, model, tokenizer, data, layers, None)
    assert_changes(method.compute(model, tokenizer, data, layers, batch_size=2), changes)


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", SPREAD)
def test_each_alone_by_definition(kind, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(3)
    method = method_for(kind, model)
    for request, delta in zip(data, method.compute_each(model, tokenizer, data, [0, 2]), strict=True):
        assert_changes(delta, plain_spread(kind, method, model, tokenizer, [request], [0, 2], None))


@EXACT
@TWO_FAMILIES
def test_alphaedit_remembers(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(6)
    method, memory = method_for(AlphaEdit, model), {}
    first = method.compute(model, tokenizer, data[:4], [1, 2], memory=memory)
    assert memory[1].shape == (4, edit_site(model, 1).in_features)
    changes = plain_spread(AlphaEdit, method, model, tokenizer, data[4:], [1, 2], memory)
    second = method.compute(model, tokenizer, data[4:], [1, 2], memory=memory)
    assert_changes(second, changes)
    assert len(memory[1]) == 6
    alone = method.compute(model, tokenizer, data[4:], [1, 2])
    assert (alone.matrix(1) - second.matrix(1)).abs().max() > 1e-6
    assert sorted((first + second).factors) == [1, 2]


@EXACT
@TWO_FAMILIES
def test_alphaedit_leaves_the_protected_subspace_alone(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method = method_for(AlphaEdit, model)
    delta = method.compute(model, tokenizer, data, [1, 2])
    for layer in (1, 2):
        values, vectors = torch.linalg.eigh(method.second_moment._moments[model][layer])
        protected = vectors[:, values >= 0.02]
        assert protected.shape[1] >= 10
        site = edit_site(model, layer)
        before = site.values(protected.T)
        with delta.applied(model):
            after = site.values(protected.T)
        assert (after - before).abs().max() < 1e-6
        assert delta.matrix(layer).norm() > 1e-3


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", [ROME, RROME])
@pytest.mark.parametrize("moment", ["identity", "sampled"])
def test_rome_by_definition(kind, moment, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(4)
    method = method_for(kind, model, second_moment=moment)
    site = edit_site(model, 2)
    c = torch.eye(site.in_features).double() if moment == "identity" else method.second_moment._moments[model][2]
    found = method.optimize_targets(model, tokenizer, data, [2])
    bias = site.module.bias if site.module.bias is not None else 0

    def change(row: int, weight: torch.Tensor) -> torch.Tensor:
        mean, bare = found.keys[row].mean(0), found.keys[row, 0]
        written = bare if kind is ROME else mean
        u = torch.linalg.inv(c) @ mean
        u = u / u.norm()
        value = found.before[row] + found.delta[row]
        lam = (value - weight @ written - bias) / (written @ u)
        # W' k* = v*
        torch.testing.assert_close((weight + torch.outer(lam, u)) @ written + bias, value, rtol=1e-8, atol=1e-8)
        return torch.outer(lam, u)

    for row, delta in enumerate(method.compute_each(model, tokenizer, data, 2)):
        assert delta.ranks == {2: 1}
        assert_changes(delta, {2: change(row, site.weight)})
    # a batch: sought together, written one after the other
    weight = site.weight.clone()
    for row in range(len(data)):
        weight += change(row, weight)
    assert_changes(method.compute(model, tokenizer, data, 2, batch_size=3), {2: weight - site.weight})


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
        assert_changes(delta, {0: first.matrix(0), 2: second.matrix(2)})


@EXACT
@TWO_FAMILIES
def test_emmet_with_one_edit_is_rromes_closed_form(family_name, tokenizer):
    model, request = tiny_model(family_name, torch.float64), requests(1)[0]
    method = method_for(EMMET, model)
    c = method.second_moment._moments[model][2]
    delta = method.compute(model, tokenizer, [request], 2)
    found = method.optimize_targets(model, tokenizer, [request], [2])
    k, r = method.contexts.grouped_mean(found.keys)[0], found.delta[0]
    u = torch.linalg.inv(c) @ k
    assert_changes(delta, {2: torch.outer(r / (k @ u), u)})


@EXACT
@TWO_FAMILIES
def test_memit_on_one_layer_solves_its_normal_equations(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method = method_for(MEMIT, model)
    c = method.second_moment._moments[model][2]
    delta = method.compute(model, tokenizer, data, 2)
    found = method.optimize_targets(model, tokenizer, data, [2])
    k = method.contexts.grouped_mean(found.keys).T
    torch.testing.assert_close(delta.matrix(2) @ (2.0 * c + k @ k.T), found.delta.T @ k.T, rtol=1e-8, atol=1e-9)


@EXACT
@TWO_FAMILIES
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

    assert_changes(method.compute(model, tokenizer, data, layers), plain(data))
    for request, delta in zip(data[:2], method.compute_each(model, tokenizer, data[:2], layers), strict=True):
        assert_changes(delta, plain([request]))


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


def test_a_norm_behind_the_mlp_is_taken_into_account(tokenizer):
    """Gemma: after a MEMIT edit of one layer the block gives nearly its target value, a hundred times nearer than before."""
    model, request = tiny_model("gemma3_text", torch.float64), requests(1)[0]
    method = method_for(MEMIT, model, moment_weight=1e-9, clamp=0.05, contexts_each=0)
    found = method.optimize_targets(model, tokenizer, [request], [2])
    delta = method.compute(model, tokenizer, [request], 2)
    before = look(model, tokenizer, request, [""], 2, blocks(model)[2])[1]
    with delta.applied(model):
        after = look(model, tokenizer, request, [""], 2, blocks(model)[2])[1]
    value = (found.before + found.delta)[0]
    assert (after - value).norm() < 0.1 * (before - value).norm()


@pytest.mark.parametrize("kind", ALL)
def test_every_method_on_every_family(kind, family, tokenizer):
    model, data = tiny_model(family), requests(3)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    method = method_for(kind, model)
    for delta in [*method.compute_each(model, tokenizer, data, [0, 1]), method.compute(model, tokenizer, data, [0, 1])]:
        assert sorted(delta.factors) == [0, 1]
        assert all(delta.matrix(layer).isfinite().all() and delta.matrix(layer).abs().max() > 0 for layer in (0, 1))
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert method.settings(model)["name"] == kind.name
    assert all(0 <= layer < 4 for layer in method.default_layers(model))


@pytest.mark.parametrize("kind", ALL)
def test_contradictory_requests_are_named(kind, llama, tokenizer):
    data = requests(3)
    other = replace(data[1], target_new="Spain", id="row X")
    with pytest.raises(DataError, match=r"contradict each other \(row 1 and row X\).*'France' and with 'Spain'"):
        method_for(kind, llama).compute(llama, tokenizer, [*data, other], 1)


@pytest.mark.parametrize("kind", ALL)
def test_layers_that_are_not_there(kind, llama, tokenizer):
    with pytest.raises(LayerError, match="Layer 9 is out of range"):
        method_for(kind, llama).compute(llama, tokenizer, requests(1), [1, 9])
    with pytest.raises(SettingError, match="`layers` is empty"):
        method_for(kind, llama).compute_each(llama, tokenizer, requests(1), [])


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (MEMIT, {"moment_weight": 0.0}),
        (MEMIT, {"window": 0}),
        (MEMIT, {"steps": 0}),
        (EMMET, {"alpha": -1.0}),
        (AlphaEdit, {"threshold": 0.0}),
        (AlphaEdit, {"l2": -1.0}),
        (AlphaEdit, {"second_moment": "identity"}),
        (FTM, {"epsilon": 0.0}),
        (FTL, {"learning_rate": 0.0}),
        (ROME, {"moment_tokens": 0}),
    ],
)
def test_settings_out_of_range(kind, setting):
    with pytest.raises(SettingError):
        kind(**setting)


def test_a_second_moment_that_cannot_be_inverted(tokenizer):
    model = tiny_model("llama", torch.float64)
    method = method_for(MEMIT, model)
    method.second_moment._moments[model][2] = torch.ones(40, 40).double()
    with pytest.raises(DataError, match=r"cannot be inverted.*moment_tokens"):
        method.compute(model, tokenizer, requests(2), 2)


def test_nothing_below_the_threshold(tokenizer):
    model = tiny_model("llama", torch.float64)
    method = method_for(AlphaEdit, model)
    method.second_moment._moments[model][2] = torch.eye(40).double()
    with pytest.raises(DataError, match=r"nothing may change.*threshold"):
        method.compute(model, tokenizer, requests(2), 2)


def test_a_model_is_known_by_its_type_and_size(monkeypatch, llama):
    assert preset_for(llama).rome_layer == 1  # round(0.18 * 4)
    assert preset_for(llama).memit_layers == (0, 1)
    assert preset_for(llama).memit_weight == 42  # 1.05 * 40
    monkeypatch.setitem(families.PRESETS, ("llama", 4, 40), "llama3-8b")
    assert MEMIT().default_layers(llama) == [4, 5, 6, 7, 8]
    assert MEMIT().search(llama).clamp == 0.75
    assert MEMIT(clamp=3.0).search(llama).clamp == 3.0
    assert ROME().search(llama).steps == 25
    assert AlphaEdit().l2(llama) == 10
