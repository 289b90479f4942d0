"""Telling models of one name apart."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model

from lga_lightning.models.weights import may_be_the_same, weights_hash, weights_mark
from tests.helpers.models import tiny_model


def test_every_change_of_a_weight_shows_and_undoing_it_does_not():
    model = tiny_model("llama")
    before = weights_hash(model)
    assert weights_hash(model) == before == weights_hash(tiny_model("llama"))
    for parameter in (next(model.parameters()), list(model.parameters())[-1]):
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[3] += 1e-3
            assert weights_hash(model) != before
            parameter.copy_(kept)
        assert weights_hash(model) == before
    list(model.parameters())[-1].data = list(model.parameters())[-1].data + 1
    assert weights_hash(model) != before


def test_dtypes_are_not_compared():
    model = tiny_model("llama")
    single, half = weights_mark(model), weights_mark(model.to(torch.bfloat16))
    assert (single.split()[0], half.split()[0]) == ("float32", "bfloat16")
    assert single.split()[1] != half.split()[1]
    assert may_be_the_same(single, half)


def test_changes_that_raise_no_version_show():
    """Fused optimizers make them, and whoever writes to ``.data`` (PEFT, as it merges an adapter)."""
    model = tiny_model("llama").requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    seen = [weights_hash(model)]
    for _ in range(2):
        model(input_ids=torch.arange(8).unsqueeze(0)).logits.sum().backward()
        optimizer.step()
        seen.append(weights_hash(model))
    merged = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).merge_and_unload()
    seen.append(weights_hash(merged))
    assert len(set(seen)) == 4


def test_a_model_made_in_inference_mode_has_a_hash():
    with torch.inference_mode():
        model = tiny_model("llama", hidden_size=64)
    assert weights_hash(model) == weights_hash(model) == weights_hash(tiny_model("llama", hidden_size=64))
