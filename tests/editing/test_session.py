"""Edits one after the other are edits of the edited model."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing import (
    EMMET,
    MEMIT,
    PMET,
    ROME,
    RROME,
    AlphaEdit,
    CrispEdit,
    DenseUpdate,
    UltraEdit,
    WeightDelta,
)
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import ALL, delta_for, method_for, name_at
from tests.helpers.models import requests, tiny_model


@pytest.mark.parametrize("kind", [RROME, MEMIT])
def test_a_run_of_groups_is_edits_on_edited_models(kind, tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(5)
    method = method_for(kind, model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = EditSession(method, model, tokenizer, 1)
    for start in (0, 2, 4):
        run.edit(data[start : start + 2])
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    by_hand = tiny_model("llama", torch.float64)
    other = method_for(kind, by_hand)
    other.contexts._sampled[by_hand] = method.contexts.of(model, tokenizer)
    for start in (0, 2, 4):
        other.compute(by_hand, tokenizer, data[start : start + 2], 1).merge_(by_hand)
    change = edit_site(by_hand, 1).weight - edit_site(model, 1).weight
    torch.testing.assert_close(run.delta.matrix(name_at(model, 1)), change, rtol=1e-6, atol=1e-8)
    assert run.requests == data
    assert run.relative_norms()[1] == pytest.approx((change.norm() / edit_site(model, 1).weight.norm()).item())
    at_once = EditSession(method, model, tokenizer, 1)
    at_once.edit_targets(method.optimize_targets(model, tokenizer, data, [1]))
    expected = method.compute(model, tokenizer, data, 1)
    torch.testing.assert_close(at_once.delta.matrix(name_at(model, 1)), expected.matrix(name_at(model, 1)))


def test_sizes_are_of_all_modules_of_a_block(tokenizer):
    model = tiny_model("gpt2")
    run = EditSession(method_for(RROME, model), model, tokenizer, 1)
    other = "transformer.h.2.attn.c_proj"
    run.delta = delta_for(model, {0: 1, 2: 2}, dtype=torch.float32)
    run.delta += WeightDelta({other: DenseUpdate(torch.ones(24, 24))})
    norms = run.relative_norms()
    assert list(norms) == [0, 2]
    for layer, names in {0: [name_at(model, 0)], 2: [name_at(model, 2), other]}.items():
        change = torch.cat([run.delta.matrix(name).flatten() for name in names])
        weight = torch.cat([model.get_submodule(name).weight.flatten() for name in names])
        assert norms[layer] == pytest.approx((change.norm() / weight.norm()).item(), rel=1e-5)


@pytest.mark.parametrize("kind", [ROME, RROME, MEMIT, EMMET, PMET, AlphaEdit, UltraEdit])
def test_a_group_that_fails_leaves_nothing_behind(kind, tokenizer, monkeypatch):
    model, data = tiny_model("llama"), requests(4)
    method = method_for(kind, model, **({} if kind in (AlphaEdit, UltraEdit) else {"history": True}))
    run, failing = (EditSession(method, model, tokenizer, [1, 2]) for _ in range(2))
    run.edit(data[:2])
    failing.edit(data[:2])
    before = failing.state()
    write, calls = type(method).write, []

    def fails_when_all_is_remembered(self, *args):
        calls.append(write(self, *args))
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(type(method), "write", fails_when_all_is_remembered)
        with pytest.raises(RuntimeError, match="interrupted"):
            failing.edit(data[2:])
    assert calls
    assert failing.state() == before
    run.edit(data[2:])
    failing.edit(data[2:])
    for name, update in run.delta.updates.items():
        assert torch.equal(failing.delta.matrix(name), update.matrix)


@pytest.mark.parametrize("kind", ALL)
def test_only_methods_that_keep_a_history_get_one(kind, tokenizer):
    model, data = tiny_model("llama"), requests(3)
    method = method_for(kind, model)
    run = EditSession(method, model, tokenizer, 1)
    run.edit(data[:2])
    run.edit(data[2:])
    if kind is AlphaEdit:
        assert {layer: keys.shape for layer, keys in run.history.items()} == {1: (3, 40)}
    elif kind is CrispEdit:
        assert {layer: curvature.keys.shape for layer, curvature in run.history.items()} == {1: (40, 40)}
    elif kind is UltraEdit:
        assert list(run.history) == [name_at(model, 1)]
    else:
        assert run.history is None
        with pytest.raises(SettingError, match=rf"`history` holds .*{kind.name} keeps none.*AlphaEdit"):
            method.compute(model, tokenizer, data, 1, history={})
