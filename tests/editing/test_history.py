"""The keys of a session's earlier edits in its later ones, against closed forms with all keys written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lga_lightning.editing import EMMET, MEMIT, PMET, ROME, RROME, AlphaEdit, DenseUpdate, WeightDelta
from lga_lightning.editing.history import remember, solve_with_history
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import assert_changes, method_for, name_at
from tests.editing.test_multi_layer import plain_update
from tests.helpers.models import requests, tiny_model

TWO_FAMILIES = pytest.mark.parametrize("family_name", ["llama", "gpt2"])
EXACT = pytest.mark.usefixtures("exact")
KINDS = [ROME, RROME, MEMIT, EMMET, PMET]
LAYERS = [1, 2]
GROUPS = [slice(0, 2), slice(2, 3), slice(3, 6)]


def with_history(kind, model, **settings):
    """AlphaEdit keeps one anyhow."""
    return method_for(kind, model, **({} if kind is AlphaEdit else {"history": True}), **settings)


def dense(model, changes):
    return WeightDelta({name_at(model, layer): DenseUpdate(change) for layer, change in changes.items()})


def assert_session(method, model, tokenizer, data, reference):
    """Each group's part of a session is what a reference makes of its requests in the model as edited so far."""
    session, so_far = EditSession(method, model, tokenizer, LAYERS), {}
    for group in GROUPS:
        with dense(model, so_far).applied(model):
            changes = reference(data[group])
        so_far = {layer: so_far.get(layer, 0) + change for layer, change in changes.items()}
        session.edit(data[group])
        assert_changes(model, session.delta, so_far)
    assert {layer: rows.shape for layer, rows in session.history.items()} == {
        layer: (6, edit_site(model, layer).in_features) for layer in LAYERS
    }


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", [MEMIT, EMMET, PMET, AlphaEdit])
def test_a_session_by_definition(kind, family_name, tokenizer):
    model, data, seen = tiny_model(family_name, torch.float64), requests(6), {}
    method = with_history(kind, model)
    method.contexts.of(model, tokenizer)  # of the unedited model

    def reference(group):
        return plain_update(kind, method, model, tokenizer, group, LAYERS, seen)

    assert_session(method, model, tokenizer, data, reference)


@EXACT
@TWO_FAMILIES
@pytest.mark.parametrize("kind", [ROME, RROME])
@pytest.mark.parametrize(("moment", "weight"), [("identity", 1.0), ("sampled", 5.0)])
def test_a_session_of_rome_by_definition(kind, moment, weight, family_name, tokenizer):
    """Every rank-one update is one of lambda C + Kp Kp^T with the keys that were written before it, and gives its own key v*."""
    model, data, seen = tiny_model(family_name, torch.float64), requests(6), {}
    method = with_history(kind, model, second_moment=moment, moment_weight=None if moment == "identity" else weight)
    method.contexts.of(model, tokenizer)

    def reference(group):
        changes = {}
        for layer in LAYERS:
            site = edit_site(model, layer)
            width = site.in_features
            c = torch.eye(width).double() if moment == "identity" else method.covariance._covariances[model][layer]
            bias = site.module.bias if site.module.bias is not None else 0
            with dense(model, changes).applied(model):
                targets = method.optimize_targets(model, tokenizer, group, [layer])
            metric = weight * c + sum(torch.outer(key, key) for key in seen.setdefault(layer, []))
            w = site.weight.clone()
            for keys, before, delta in zip(targets.keys, targets.before, targets.delta, strict=True):
                mean, written = keys.mean(0), keys[0] if kind is ROME else keys.mean(0)
                u = torch.linalg.inv(metric) @ mean
                w += torch.outer((before + delta - w @ written - bias) / (written @ u), u)
                torch.testing.assert_close(w @ written + bias, before + delta, rtol=1e-8, atol=1e-8)
                metric = metric + torch.outer(written, written)
                seen[layer].append(written)
            changes[layer] = w - site.weight
        return changes

    assert_session(method, model, tokenizer, data, reference)


@EXACT
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(MEMIT, {}), (PMET, {}), (AlphaEdit, {}), (EMMET, {"alpha": 1.0}), (ROME, {"moment_weight": 2.0}), (RROME, {})],
)
@pytest.mark.parametrize("sizes", [[2, 4], [3, 3], [2, 2, 2]])
def test_the_same_keys_and_values_are_the_same_edit_in_any_groups(kind, settings, sizes, tokenizer):
    """Earlier keys in full make edits in a row those of all at once (arXiv 2605.26670, section 3)."""
    model, layer = tiny_model("llama", torch.float64), 2
    method = with_history(kind, model, contexts_each=0, **settings)
    targets = method.optimize_targets(model, tokenizer, requests(6), [layer])
    at_once = EditSession(method, model, tokenizer, layer)
    at_once.edit_targets(targets)
    in_groups, start = EditSession(method, model, tokenizer, layer), 0
    for size in sizes:
        group = targets.part(slice(start, start + size))
        if kind in (ROME, RROME):  # whose delta is what the value lacks at present
            with in_groups.delta.applied(model):
                present = edit_site(model, layer).values(group.keys[:, 0])
            group = replace(group, delta=group.before + group.delta - present)
        in_groups.edit_targets(group)
        start += size
    assert_changes(model, in_groups.delta, {layer: at_once.delta.matrix(name_at(model, layer))})


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_history_nothing_changes_but_with_one_something_does(kind, tokenizer):
    model, data = tiny_model("llama"), requests(4)
    plain, keeping = method_for(kind, model), with_history(kind, model)
    assert not plain.keeps_history
    assert plain.new_history() is None
    changes = {}
    for name, method in {"plain": plain, "keeping": keeping}.items():
        session = EditSession(method, model, tokenizer, LAYERS)
        session.edit(data[:2])
        session.edit(data[2:])
        changes[name] = session.delta.matrix(name_at(model, 2))
        assert (session.history is None) == (name == "plain")
        changes[name, "alone"] = method.compute(model, tokenizer, data, LAYERS).matrix(name_at(model, 2))
    assert torch.equal(changes["plain", "alone"], changes["keeping", "alone"])
    assert (changes["plain"] - changes["keeping"]).abs().max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_earlier_keys_answer_less_to_a_later_edit(kind, tokenizer):
    """What the second group's change does to the keys of the first is less where they are protected."""
    model, data = tiny_model("llama", torch.float64), requests(4)
    disturbed = {}
    for history in (False, True):
        method = method_for(kind, model, history=history, moment_weight=0.1)
        method.contexts.of(model, tokenizer)
        first = method.compute(model, tokenizer, data[:2], 2)
        keys = method.optimize_targets(model, tokenizer, data[:2], [2]).keys
        keys = method.contexts.grouped_mean(keys) if kind not in (ROME, RROME) else method.written_key(keys)
        with first.applied(model):
            second = method.compute(model, tokenizer, data[2:], 2, history={2: keys} if history else None)
        disturbed[history] = (second.matrix(name_at(model, 2)) @ keys.T).norm()
    assert disturbed[True] < 0.5 * disturbed[False]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_tell_it(kind):
    model = tiny_model("llama")
    assert method_for(kind, model).settings(model)["history"] is False
    assert with_history(kind, model).settings(model)["history"] is True


def test_rome_tells_a_weight_only_where_it_has_one():
    model = tiny_model("llama")
    assert "moment_weight" not in ROME().settings(model)
    assert ROME(history=True, second_moment="identity").settings(model)["moment_weight"] == 1.0
    assert ROME(history=True).settings(model)["moment_weight"] == MEMIT().settings(model)["moment_weight"]
    assert ROME(history=True, moment_weight=3.0).settings(model)["moment_weight"] == 3.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_must_be_above_zero(kind):
    with pytest.raises(SettingError, match="`moment_weight` must be above 0, got 0"):
        kind(moment_weight=0.0)


def test_a_long_history_takes_no_more_room_than_the_width_and_loses_nothing():
    keys = torch.randn(23, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = None
    for number, part in enumerate(keys.split(3), start=1):
        factor = remember(factor, part)
        assert len(factor) == min(3 * number, 7)
    torch.testing.assert_close(factor.T @ factor, keys.T @ keys, rtol=1e-12, atol=1e-12)


@EXACT
@pytest.mark.parametrize("kind", [*KINDS, AlphaEdit])
def test_a_compacted_history_gives_the_same_edit(kind, tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(3)
    method = with_history(kind, model)
    earlier = 0.1 * torch.randn(90, 40, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    raw, compacted = {2: earlier}, {2: remember(None, earlier)}
    assert compacted[2].shape == (40, 40)
    expected = method.compute(model, tokenizer, data, 2, history=raw).matrix(name_at(model, 2))
    assert_changes(model, method.compute(model, tokenizer, data, 2, history=compacted), {2: expected})
    assert raw[2].shape == compacted[2].shape == (40, 40)


@pytest.mark.parametrize("rows", [3, 40, 55])
def test_solutions_are_those_of_the_matrix_written_out(rows):
    model = tiny_model("llama", torch.float64)
    method = method_for(MEMIT, model)
    generator = torch.Generator().manual_seed(rows)
    earlier, keys = (torch.randn(n, 40, generator=generator, dtype=torch.float64) for n in (rows, 4))
    found = solve_with_history(method.covariance, model, 2, keys, 0.5, earlier)
    matrix = 0.5 * method.covariance._covariances[model][2] + earlier.T @ earlier
    torch.testing.assert_close(found, torch.linalg.solve(matrix, keys.T).T, rtol=1e-8, atol=1e-9)


def test_a_key_that_was_edited_before_gets_less_from_memit_and_all_from_emmet():
    """Of a residual MEMIT writes q / (1 + q), q = k^T C~^-1 k, and where the key is an earlier one too q / (1 + 2 q)."""
    model = tiny_model("llama", torch.float64)
    key = torch.randn(1, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    method = with_history(MEMIT, model)
    q = method.weighted(model, 2, key) @ key.T
    torch.testing.assert_close(method.solve_update(model, 2, key) @ key.T, q / (1 + q))
    torch.testing.assert_close(method.solve_update(model, 2, key, key) @ key.T, q / (1 + 2 * q))
    exact = with_history(EMMET, model).solve_update(model, 2, key, key) @ key.T
    torch.testing.assert_close(exact, torch.ones(1, 1).double())
