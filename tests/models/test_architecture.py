"""What is found in each family, against tables written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lga_lightning.exceptions import LayerError, ModelError
from lga_lightning.locators import LGA
from lga_lightning.models.architecture import (
    SCOPES,
    blocks,
    check_layer,
    edit_site,
    hidden_size,
    scored_sites,
)
from lga_lightning.models.structure import is_matrix, matrix_shape, normalised
from tests.helpers.families import FAMILIES
from tests.helpers.models import requests, tiny_model

# the out-projection of block 2, its d_in, and whether its weight is stored as [d_in, d_out]
EDITED = {
    "llama": ("model.layers.2.mlp.down_proj", 40, False),
    "qwen2": ("model.layers.2.mlp.down_proj", 40, False),
    "qwen3": ("model.layers.2.mlp.down_proj", 40, False),
    "mistral": ("model.layers.2.mlp.down_proj", 40, False),
    "gemma3_text": ("model.layers.2.mlp.down_proj", 40, False),
    "phi3": ("model.layers.2.mlp.down_proj", 40, False),
    "gpt2": ("transformer.h.2.mlp.c_proj", 96, True),
    "gptj": ("transformer.h.2.mlp.fc_out", 96, False),
    "gpt_neox": ("gpt_neox.layers.2.mlp.dense_4h_to_h", 96, False),
    "opt": ("model.decoder.layers.2.fc2", 40, False),
}

# by scope, the names within a block
SITES = {
    "llama": {
        "mlp": ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
        "mlp_out": ["mlp.down_proj"],
        "attention": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
    },
    "gpt2": {
        "mlp": ["mlp.c_fc", "mlp.c_proj"],
        "mlp_out": ["mlp.c_proj"],
        "attention": ["attn.c_attn", "attn.c_proj"],
    },
    "opt": {
        "mlp": ["fc1", "fc2"],
        "mlp_out": ["fc2"],
        "attention": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"],
    },
}
ENCODER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
NORMS = {
    "llama": ["input_layernorm", "post_attention_layernorm"],
    "gpt2": ["ln_1", "ln_2"],
    "opt": ["self_attn_layer_norm", "final_layer_norm"],
}
PREFIX = {"llama": "model.layers", "gpt2": "transformer.h", "opt": "model.decoder.layers"}


def test_the_table_names_every_family():
    assert set(EDITED) == set(FAMILIES)


def test_edit_site(family):
    model = tiny_model(family)
    name, d_in, transposed = EDITED[family]
    site = edit_site(model, 2)
    assert (site.name, site.layer, site.transposed) == (name, 2, transposed)
    assert site.module is model.get_submodule(name)
    assert (site.in_features, site.out_features) == (d_in, 24) == matrix_shape(site.module)
    assert site.weight.shape == (24, d_in)


def test_the_sites_weight_is_the_models(family):
    model = tiny_model(family)
    site = edit_site(model, 1)
    assert site.weight.data_ptr() == site.module.weight.data_ptr()
    site.weight[3, 5] = 7.0
    stored = site.module.weight
    assert (stored[5, 3] if site.transposed else stored[3, 5]) == 7.0


def test_the_orientation_is_that_of_the_forward_pass(family):
    site = edit_site(tiny_model(family, torch.float64), 1)
    keys = torch.randn(2, 3, site.in_features).double()
    bias = getattr(site.module, "bias", None)
    expected = keys @ site.weight.T + (0 if bias is None else bias)
    torch.testing.assert_close(site.module(keys), expected)


def test_blocks(family):
    model = tiny_model(family)
    prefix = EDITED[family][0].split(".2.")[0]
    assert all(block is model.get_submodule(f"{prefix}.{i}") for i, block in enumerate(blocks(model)))
    assert len(blocks(model)) == 4
    assert len(blocks(tiny_model(family, num_hidden_layers=3))) == 3
    assert hidden_size(model) == 24


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_out_of_range(family, layer):
    model = tiny_model(family)
    for find in (check_layer, edit_site):
        with pytest.raises(LayerError, match=rf"Layer {layer} is out of range: .*'{family}'.* 0 to 3"):
            find(model, layer)
    assert check_layer(model, 3) == 3


@pytest.mark.parametrize("family", SITES)
@pytest.mark.parametrize("scope", SCOPES)
def test_scored_sites(family, scope):
    model = tiny_model(family)
    names = (
        SITES[family].get("mlp_out" if scope == "value" else scope)
        or SITES[family]["mlp"] + SITES[family]["attention"] + NORMS[family]
    )
    sites = scored_sites(model, scope)
    assert len(sites) == 4
    for layer, found in enumerate(sites):
        assert sorted(site.name for site in found) == sorted(f"{PREFIX[family]}.{layer}.{name}" for name in names)
        assert all(site.module is model.get_submodule(site.name) for site in found)
        biased = scope == "block" and family != "llama"  # only scope "block" takes biases, and llama has none
        assert all(site.bias is biased for site in found)


def test_scopes_of_every_family_add_up(family):
    model = tiny_model(family)
    names = {scope: [[site.name for site in block] for block in scored_sites(model, scope)] for scope in SCOPES}
    for layer, block in enumerate(blocks(model)):
        mlp, out, attention, everything, value = (names[scope][layer] for scope in SCOPES)
        assert value == out
        assert out == [edit_site(model, layer).name]
        assert set(out) < set(mlp)
        assert not set(mlp) & set(attention)
        assert {name for name in everything if is_matrix(model.get_submodule(name))} == {*mlp, *attention}
        count = sum(p.numel() for name in everything for p in model.get_submodule(name).parameters())
        assert count == sum(p.numel() for p in block.parameters())


def test_experts_of_a_kind_that_is_not_known_are_refused():
    """As of transformers 4: each expert an MLP of its own."""
    model = tiny_model("llama")
    for block in blocks(model):
        block.mlp = torch.nn.ModuleList([block.mlp, type(block.mlp)(model.config)])
    said = r"Expected exactly one matrix .*'llama'.*found 2 .*Supported are .*llama.*register a structure"
    with pytest.raises(ModelError, match=said):
        edit_site(model, 0)
    for scope in SCOPES[:3]:
        with pytest.raises(ModelError, match=said):
            scored_sites(model, scope)


def test_a_model_without_blocks_is_refused(llama):
    llama.config.num_hidden_layers = 7
    with pytest.raises(
        ModelError, match=r"no transformer blocks in LlamaForCausalLM.*the 7 entries.*register a structure"
    ):
        blocks(llama)


def test_a_bad_scope(llama):
    with pytest.raises(ValueError, match=r"`scope` must be one of \['mlp', 'mlp_out', .*got 'ffn'"):
        scored_sites(llama, "ffn")


def test_normalised_is_what_the_norm_does_before_its_weight(family):
    model = tiny_model(family)
    norms = [s.module for s in scored_sites(model, "block")[0] if not is_matrix(s.module)]
    for norm in norms:
        x = torch.randn(2, 3, norm.weight.shape[0])
        bias = getattr(norm, "bias", None)
        weight = norm.weight + 1 if family == "gemma3_text" else norm.weight
        expected = normalised(norm, x) * weight + (0 if bias is None else bias)
        torch.testing.assert_close(norm(x), expected)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ModelError, match=r"gradient of every parameter.*GroupNorm.*Use the scope 'mlp'"):
        normalised(torch.nn.GroupNorm(1, 4), torch.randn(2, 4))


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("lfm3", "Conv1d"),
        ("mixtral", "MixtralTopKRouter"),
        ("gpt_oss", "GptOssAttention"),
        ("doge", "DogeDecoderLayer"),
    ],
)
def test_a_block_with_parameters_of_another_kind_is_refused(family, part, tokenizer):
    with pytest.raises(ModelError, match=f"gradient of every parameter.*that of a {part}. Use the scope 'mlp'"):
        LGA("block").score(tiny_model(family), tokenizer, requests(1))


def test_a_layer_norm_behind_the_mlp_is_refused_by_what_aims_behind_it():
    site = replace(edit_site(tiny_model("llama"), 1), norm=torch.nn.LayerNorm(24))
    with pytest.raises(ModelError, match=r"A LayerNorm stands between model\.layers\.1\.mlp\.down_proj and"):
        site.before_norm(torch.randn(2, 24), torch.randn(2, 24))


@pytest.mark.parametrize(
    ("family", "is_decoder", "said"),
    [
        ("bert", False, "is an encoder: its tokens see what comes behind them"),
        ("roberta", True, "counts positions from behind its padding token's number"),
    ],
)
def test_models_that_are_not_read_from_the_left_are_refused(family, is_decoder, said):
    with pytest.raises(ModelError, match=said):
        blocks(tiny_model(family, **ENCODER, is_decoder=is_decoder))
    assert len(blocks(tiny_model("bert", **ENCODER, is_decoder=True))) == 2


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_prompts_that_are_learned_are_refused(kind, llama):
    peft = pytest.importorskip("peft")
    tuned = peft.get_peft_model(llama, getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ModelError, match=rf"learns a prompt by PEFT \({kind}\)"):
        blocks(tuned)
