"""What every editing method promises, and its settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, ROME, AlphaEdit, CrispEdit, LocFT
from lga_lightning.editing.presets import PRESETS, preset_for
from lga_lightning.exceptions import DataError, LayerError, SettingError
from tests.editing.helpers import ALL, method_for, name_at
from tests.helpers.models import requests, tiny_model


@pytest.mark.parametrize("kind", ALL)
def test_every_method_on_every_family(kind, family, tokenizer):
    model, data = tiny_model(family), requests(3)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    method = method_for(kind, model)
    for delta in [*method.compute_each(model, tokenizer, data, [0, 1]), method.compute(model, tokenizer, data, [0, 1])]:
        assert list(delta.updates) == [name_at(model, 0), name_at(model, 1)]
        assert all(
            update.matrix.isfinite().all() and update.matrix.abs().max() > 0 for update in delta.updates.values()
        )
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert method.settings(model)["name"] == kind.name
    assert all(0 <= layer < 4 for layer in method.default_layers(model))


@pytest.mark.parametrize("kind", ALL)
def test_what_needs_no_subject_does_not_look_at_it(kind, llama, tokenizer):
    data = requests(1)
    other = replace(data[0], subject=data[0].prompt.split()[1])
    method = method_for(kind, llama)
    first, second = (method.compute(llama, tokenizer, [one], 1).matrix(name_at(llama, 1)) for one in (data[0], other))
    assert torch.equal(first, second) is not method.needs_subject


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
        (CrispEdit, {"energy": 1.0}),
        (CrispEdit, {"window": 0}),
        (LocFT, {"epochs": 0}),
    ],
)
def test_settings_out_of_range(kind, setting):
    with pytest.raises(SettingError):
        kind(**setting)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ALL)
def test_a_small_model_has_the_layers_by_depth(kind, count):
    layers = kind().default_layers(tiny_model("llama", num_hidden_layers=count))
    assert layers == sorted(set(layers))
    assert set(layers) <= set(range(count))
    assert layers


def test_a_model_is_known_by_its_type_and_size(monkeypatch, llama):
    assert preset_for(llama).rome_layer == 1  # round(0.18 * 4)
    assert preset_for(llama).memit_layers == (0, 1)
    assert preset_for(llama).memit_weight == 42  # 1.05 * 40
    monkeypatch.setitem(PRESETS, ("llama", 4, 40), PRESETS["llama", 32, 14336])  # as LLaMA-3-8B
    assert MEMIT().default_layers(llama) == [4, 5, 6, 7, 8]
    assert MEMIT().search(llama).clamp == 0.75
    assert MEMIT(clamp=3.0).search(llama).clamp == 3.0
    assert ROME().search(llama).steps == 25
    assert AlphaEdit().l2(llama) == 10
