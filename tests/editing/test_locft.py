"""LocFT-BF against torch's Adam, one group at a time."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing import LocFT
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import ModelError, SettingError
from tests.editing.helpers import assert_changes, method_for, name_at
from tests.editing.tuning_by_hand import tune
from tests.helpers.models import requests, tiny_model, tiny_tokenizer


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
@pytest.mark.parametrize("settings", [{}, {"end_of_text": False, "seed": 7}, {"stop_loss": 5.6, "epochs": 8}])
@pytest.mark.parametrize("layers", [[2], [1, 2]])
def test_breadth_first_by_definition(layers, settings, family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(7)
    method = method_for(LocFT, model, **settings)
    assert_changes(model, method.compute(model, tokenizer, data, layers), tune(model, tokenizer, data, layers, method))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_groups_do_not_see_each_other(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(8)
    method = method_for(LocFT, model, stop_loss=5.6, epochs=8)  # some are done before others
    groups = [data[:4], data[4:5], data[5:]]
    targets = [method.optimize_targets(model, tokenizer, group, [2]) for group in groups]
    for group, delta in zip(groups, method.write(model, tokenizer, targets, [2]), strict=True):
        assert_changes(model, delta, tune(model, tokenizer, group, [2], method))


@pytest.mark.usefixtures("exact")
def test_a_session_tunes_tuned_weights(tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(6)
    method = method_for(LocFT, model)
    session, by_hand = EditSession(method, model, tokenizer, 2), tiny_model("llama", torch.float64)
    for group in (data[:4], data[4:]):
        session.edit(group)
        change = tune(by_hand, tokenizer, group, [2], method)[2]
        by_hand.model.layers[2].mlp.down_proj.weight += change
    change = by_hand.model.layers[2].mlp.down_proj.weight - model.model.layers[2].mlp.down_proj.weight
    torch.testing.assert_close(session.delta.matrix(name_at(model, 2)), change, rtol=1e-8, atol=1e-10)


def test_the_order_is_the_seeds(tokenizer):
    model, data = tiny_model("llama"), requests(7)
    first, again, other = (
        method_for(LocFT, model, seed=seed).compute(model, tokenizer, data, 2).matrix(name_at(model, 2))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_settings():
    for setting in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"stop_loss": -1.0}):
        with pytest.raises(SettingError, match=r"`epochs` and `batch_size` must be at least 1.*got"):
            LocFT(**setting)


def test_a_tokenizer_without_an_end(llama):
    endless = tiny_tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelError, match=r"LocFT-BF teaches answers .* no end-of-text token .*end_of_text false"):
        LocFT(epochs=1).compute(llama, endless, requests(1), 1)
    assert LocFT(epochs=1, end_of_text=False).compute(llama, endless, requests(1), 1).is_dense
