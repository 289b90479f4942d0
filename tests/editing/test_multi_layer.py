"""MEMIT, EMMET, AlphaEdit and PMET against their closed forms, written out plainly for one group of requests at a time."""

from __future__ import annotations

import copy

import pytest
import torch

from lga_lightning.editing import EMMET, MEMIT, PMET, AlphaEdit, multi_layer
from lga_lightning.exceptions import DataError
from lga_lightning.locators import EditForecast
from lga_lightning.models.architecture import blocks, edit_site
from tests.editing.helpers import MULTI_LAYER, assert_changes, look, method_for, name_at
from tests.helpers.models import requests, tiny_model

TWO_FAMILIES = pytest.mark.parametrize("family_name", ["llama", "gpt2"])
EXACT = pytest.mark.usefixtures("exact")


def plain_update(kind, method, model, tokenizer, data, layers, earlier):
    """Changes [d_out, d_in] by layer, as the papers write them, on a copy of the model that is edited on the way.

    Keys of earlier edits [m, d_in] by layer, if there is a table of them, enter, and those of these edits are added to it.
    """
    contexts = method.contexts.of(model, tokenizer)
    moments = method.covariance._covariances[model]
    module = method.intervention_modules(model, layers[-1])[-1]
    targets = method.optimize_targets(model, tokenizer, data, layers)
    values = targets.before + targets.delta
    edited = copy.deepcopy(model)
    module = edited.get_submodule(next(name for name, one in model.named_modules() if one is module))
    changes, new_keys = {}, {}
    for number, layer in enumerate(layers):
        looked = [look(edited, tokenizer, request, contexts, layer, module) for request in data]
        # the bare prompt, and the texts of each of two lengths, weigh a third each
        k = torch.stack([keys[0] / 3 + keys[1:3].mean(0) / 3 + keys[3:5].mean(0) / 3 for keys, _ in looked], 1)
        r = (values - torch.stack([h for _, h in looked])).T
        left = len(layers) - number
        r = r / (left**0.5 if kind is PMET else left)
        c, eye = moments[layer], torch.eye(len(k)).double()
        past = earlier[layer].T @ earlier[layer] if earlier else torch.zeros_like(c)
        if kind in (MEMIT, PMET):
            change = r @ k.T @ torch.linalg.inv(2.0 * c + past + k @ k.T)
        elif kind is EMMET:
            inverse = torch.linalg.inv(3.0 * c + past)
            alpha = 0.1 * torch.eye(len(data)).double() if len(data) > 1 else 0
            change = r @ torch.linalg.inv(k.T @ inverse @ k + alpha) @ k.T @ inverse
        else:
            u, s, _ = torch.linalg.svd(c)
            p = u[:, s < 0.02] @ u[:, s < 0.02].T
            change = torch.linalg.solve(p @ (k @ k.T + past) + 0.1 * eye, p @ k @ r.T).T
        edit_site(edited, layer).weight.add_(change)
        changes[layer] = change
        new_keys[layer] = k.T
    if earlier is not None:
        for layer, rows in new_keys.items():
            earlier[layer] = torch.cat([earlier[layer], rows]) if layer in earlier else rows
    return changes


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", MULTI_LAYER)
@pytest.mark.parametrize("layers", [[2], [0, 1, 2]])
def test_a_batch_by_definition(kind, layers, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method = method_for(kind, model)
    changes = plain_update(kind, method, model, tokenizer, data, layers, None)
    assert_changes(model, method.compute(model, tokenizer, data, layers, batch_size=2), changes)


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", MULTI_LAYER)
def test_each_alone_by_definition(kind, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(3)
    method = method_for(kind, model)
    for request, delta in zip(data, method.compute_each(model, tokenizer, data, [0, 2]), strict=True):
        assert_changes(model, delta, plain_update(kind, method, model, tokenizer, [request], [0, 2], None))


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("layers", [[1, 2, 3], [0, 3]])
def test_what_is_below_an_edited_block_runs_once(layers, family_name, tokenizer, monkeypatch):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method, passes = method_for(MEMIT, model), dict.fromkeys(range(len(blocks(model))), 0)
    targets = [method.optimize_targets(model, tokenizer, part, layers) for part in (data[:2], data[2:])]

    def write():
        passes.update(dict.fromkeys(passes, 0))
        return method.write(model, tokenizer, targets, layers)

    for layer, block in enumerate(blocks(model)):
        attention = next(part for name, part in block.named_children() if "attn" in name)
        attention.register_forward_hook(lambda *_, layer=layer: passes.update({layer: passes[layer] + 1}))
    found, kept = write(), dict(passes)
    assert kept == ({0: 1, 1: 2, 2: 3, 3: 3} if layers == [1, 2, 3] else {0: 2, 1: 2, 2: 2, 3: 2})
    monkeypatch.setattr(multi_layer, "MOST_KEPT", 0)
    every = write()
    assert passes == dict.fromkeys(passes, len(layers))
    for one, other in zip(found, every, strict=True):
        assert one.updates.keys() == other.updates.keys()
        for name, update in one.updates.items():
            assert all(torch.equal(a, b) for a, b in zip(update.factors, other.updates[name].factors, strict=True))


@EXACT
@TWO_FAMILIES
def test_alphaedit_remembers(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(6)
    method, history = method_for(AlphaEdit, model), {}
    first = method.compute(model, tokenizer, data[:4], [1, 2], history=history)
    assert history[1].shape == (4, edit_site(model, 1).in_features)
    changes = plain_update(AlphaEdit, method, model, tokenizer, data[4:], [1, 2], dict(history))
    second = method.compute(model, tokenizer, data[4:], [1, 2], history=history)
    assert_changes(model, second, changes)
    assert len(history[1]) == 6
    alone = method.compute(model, tokenizer, data[4:], [1, 2])
    assert (alone.matrix(name_at(model, 1)) - second.matrix(name_at(model, 1))).abs().max() > 1e-6
    assert list((first + second).updates) == [name_at(model, 1), name_at(model, 2)]


@EXACT
@TWO_FAMILIES
def test_alphaedit_leaves_the_protected_subspace_alone(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method = method_for(AlphaEdit, model)
    delta = method.compute(model, tokenizer, data, [1, 2])
    for layer in (1, 2):
        values, vectors = torch.linalg.eigh(method.covariance._covariances[model][layer])
        protected = vectors[:, values >= 0.02]
        assert protected.shape[1] >= 10
        site = edit_site(model, layer)
        before = site.values(protected.T)
        with delta.applied(model):
            after = site.values(protected.T)
        assert (after - before).abs().max() < 1e-6
        assert delta.matrix(name_at(model, layer)).norm() > 1e-3


def test_emmet_cannot_give_one_key_two_values(tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(1) * 2
    said = r"EMMET at block 1 .* the same key, and with `alpha` 0 .* give `alpha` a number above 0"
    with pytest.raises(DataError, match=said):
        method_for(EMMET, model, alpha=0.0).compute(model, tokenizer, data, 1)
    assert method_for(EMMET, model).compute(model, tokenizer, data, 1).matrix(name_at(model, 1)).norm() > 0


@EXACT
@TWO_FAMILIES
def test_emmet_with_one_edit_is_rromes_closed_form(family_name, tokenizer):
    model, request = tiny_model(family_name, torch.float64), requests(1)[0]
    method = method_for(EMMET, model)
    c = method.covariance._covariances[model][2]
    delta = method.compute(model, tokenizer, [request], 2)
    targets = method.optimize_targets(model, tokenizer, [request], [2])
    k, r = method.contexts.grouped_mean(targets.keys)[0], targets.delta[0]
    u = torch.linalg.inv(c) @ k
    assert_changes(model, delta, {2: torch.outer(r / (k @ u), u)})


@EXACT
@TWO_FAMILIES
def test_memit_on_one_layer_solves_its_normal_equations(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    method = method_for(MEMIT, model)
    c = method.covariance._covariances[model][2]
    delta = method.compute(model, tokenizer, data, 2)
    targets = method.optimize_targets(model, tokenizer, data, [2])
    k = method.contexts.grouped_mean(targets.keys).T
    torch.testing.assert_close(
        delta.matrix(name_at(model, 2)) @ (2.0 * c + k @ k.T), targets.delta.T @ k.T, rtol=1e-8, atol=1e-9
    )


def test_a_norm_behind_the_mlp_is_taken_into_account(tokenizer):
    """Gemma: after a MEMIT edit of one layer the block gives nearly its target value, a hundred times nearer than before."""
    model, request = tiny_model("gemma3_text", torch.float64), requests(1)[0]
    method = method_for(MEMIT, model, moment_weight=1e-9, clamp=0.05, contexts_each=0)
    targets = method.optimize_targets(model, tokenizer, [request], [2])
    delta = method.compute(model, tokenizer, [request], 2)
    before = look(model, tokenizer, request, [""], 2, blocks(model)[2])[1]
    with delta.applied(model):
        after = look(model, tokenizer, request, [""], 2, blocks(model)[2])[1]
    value = (targets.before + targets.delta)[0]
    assert (after - value).norm() < 0.1 * (before - value).norm()


def test_a_second_moment_that_cannot_be_inverted(tokenizer):
    model = tiny_model("llama", torch.float64)
    method = method_for(MEMIT, model)
    method.covariance._covariances[model][2] = torch.ones(40, 40).double()
    with pytest.raises(DataError, match=r"cannot be inverted.*moment_tokens"):
        method.compute(model, tokenizer, requests(2), 2)


def test_a_layer_without_null_space_stays_as_it_is(tokenizer):
    """The others of its window are edited; a window of it alone is expected to reach nothing."""
    model, data = tiny_model("llama", torch.float64), requests(2)
    method = method_for(AlphaEdit, model, window=1)
    method.covariance._covariances[model][1] = torch.eye(40).double()
    delta = method.compute(model, tokenizer, data, [1, 2])
    assert not delta.matrix(name_at(model, 1)).any()
    assert delta.matrix(name_at(model, 2)).norm() > 1e-3
    reach = EditForecast(method).score(model, tokenizer, data).values[:, EditForecast.columns.index("reach")]
    assert (reach != 0).all(0).tolist() == [
        True,
        False,
        True,
        False,
    ]  # nothing reads what the last block writes at the subject


def test_nothing_below_the_threshold(tokenizer):
    model = tiny_model("llama", torch.float64)
    method = method_for(AlphaEdit, model)
    method.covariance._covariances[model][2] = torch.eye(40).double()
    with pytest.raises(DataError, match=r"nothing may change.*threshold"):
        method.compute(model, tokenizer, requests(2), 2)
