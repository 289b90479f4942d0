"""Adapters elsewhere: what PEFT, transformers, safetensors and vLLM's rules make of them; the code of docs/serving.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lga_lightning.editing import FTM, RROME
from lga_lightning.editing.adapter import save_updates
from lga_lightning.editing.serving import check_servable
from lga_lightning.exceptions import DataError, SettingError
from tests.editing.helpers import delta_for, ids, name_at
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BASE = "HuggingFaceTB/SmolLM2-135M"


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids()).logits


def edited(model, *deltas) -> torch.Tensor:
    total = deltas[0]
    for delta in deltas[1:]:
        total += delta
    with total.applied(model):
        return logits(model)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def two(tmp_path):
    """Two edits of unequal ranks, of a module that both change and one that one of them does; a folder each."""
    model = tiny_model("llama")
    deltas = delta_for(model, {1: 2, 2: 5}, 0, torch.float32), delta_for(model, {1: 3}, 1, torch.float32)
    for name, delta in zip("ab", deltas, strict=True):
        save_updates(delta.updates, tmp_path / name, model, BASE, rank=8)
    return deltas


def test_peft_swaps_stacks_mixes_and_merges(two, tmp_path):
    a, b = two
    base = tiny_model("llama")
    model = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", adapter_name="b")
    close(logits(model), edited(base, a))
    model.set_adapter("b")
    close(logits(model), edited(base, b))
    model.base_model.set_adapter(["a", "b"])
    close(logits(model), edited(base, a, b))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "both", combination_type="cat")
    model.set_adapter("both")
    close(logits(model), edited(base, a, b))
    model.set_adapter("a")
    close(logits(model.merge_and_unload()), edited(base, a))


def test_ranks_of_their_own_mix_too(tmp_path):
    model = tiny_model("llama")
    a, b = delta_for(model, {1: 2, 2: 5}, 0, torch.float32), delta_for(model, {1: 3}, 1, torch.float32)
    a.save_pretrained(tmp_path / "a", model)
    b.save_pretrained(tmp_path / "b", model)
    adapted = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "a", adapter_name="a")
    adapted.load_adapter(tmp_path / "b", adapter_name="b")
    adapted.base_model.set_adapter(["a", "b"])
    close(logits(adapted), edited(model, a, b))


@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_transformers_alone(family_name, tmp_path):
    model = tiny_model(family_name)
    delta = delta_for(model, {1: 2, 2: 3}, dtype=torch.float32)
    delta.save_pretrained(tmp_path / "a", model)
    loaded = tiny_model(family_name)
    loaded.load_adapter(str(tmp_path / "a"))
    close(logits(loaded), edited(model, delta))
    loaded.disable_adapters()
    close(logits(loaded), logits(model))


@pytest.mark.parametrize("rank", [None, 8])
def test_what_a_loader_without_patterns_reads(rank, tmp_path):
    """One scaling for all modules, tensors by name: as vLLM's loader does it."""
    model, folder = tiny_model("llama"), tmp_path / "a"
    delta = delta_for(model, {1: 2, 2: 5}, dtype=torch.float32)
    save_updates(delta.updates, folder, model, BASE, rank=rank)
    assert check_servable(folder) == []
    config, tensors = (
        json.loads((folder / "adapter_config.json").read_text()),
        load_file(folder / "adapter_model.safetensors"),
    )
    served = tiny_model("llama")
    for name, b in tensors.items():
        if name.endswith(".lora_B.weight"):
            a = tensors[name.replace("lora_B", "lora_A")]
            assert b.shape[1] == a.shape[0] <= config["r"]
            module = served.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_B.weight"))
            module.weight += config["lora_alpha"] / config["r"] * b @ a
    close(logits(served), edited(model, delta))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 600, "lora_alpha": 600}, "Its rank is 600"),
        ({"r": 4, "lora_alpha": 4}, r"layers\.2\.mlp\.down_proj has rank 5, more than the 4"),
        ({"alpha_pattern": {"layers.1.mlp.down_proj": 1}}, r"layers\.1\.mlp\.down_proj has a scaling of its own"),
        ({"rank_pattern": {}, "alpha_pattern": {}, "use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"peft_type": "LOHA"}, "LOHA, not LoRA"),
        ({"fan_in_fan_out": True}, "transposed"),
    ],
)
def test_what_vllm_would_refuse_or_misread(change, said, tmp_path):
    model = tiny_model("llama")
    delta_for(model, {1: 2, 2: 5}, dtype=torch.float32).save_pretrained(tmp_path / "a", model)
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    problems = check_servable(tmp_path / "a")
    assert any(re.search(said, problem) for problem in problems), problems
    path.write_text("{}")
    with pytest.raises(DataError, match="is broken"):
        check_servable(tmp_path / "a")


def test_dense_edits_and_gpt2(tokenizer, tmp_path):
    model = tiny_model("gpt2")
    delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained(tmp_path / "a", model)
    assert "Conv1D" in check_servable(tmp_path / "a")[0]
    FTM(steps=1).compute(model, tokenizer, requests(1), 1).save_pretrained(tmp_path / "b", model)
    assert check_servable(tmp_path / "b") == [
        "It holds no LoRA adapter (adapter_config.json and adapter_model.safetensors)."
    ]


def test_nothing_is_cut_by_padding():
    model = tiny_model("llama")
    update = delta_for(model, {1: 3}).updates[name_at(model, 1)]
    assert torch.equal(update.padded(8).matrix, update.matrix)
    assert update.padded(8).rank == 8
    with pytest.raises(SettingError, match="`rank` is 2, and the edit has rank 3"):
        update.padded(2)


def test_the_page(model_folder, tokenizer, tmp_path, monkeypatch):
    """Every Python block of the page runs, in order, on a tiny model in the place of the real one."""
    monkeypatch.chdir(tmp_path)
    model = tiny_model("llama")
    deltas = [RROME(**FAST_METHOD).compute(model, tokenizer, [one], 1) for one in requests(2)]
    deltas[0].save_pretrained("adapter", model)
    deltas[1].save_pretrained("other", model)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) > 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace(BASE, str(model_folder)), names)
    close(logits(names["by_hand"]), edited(model, deltas[0]))
    close(logits(names["both"]), edited(model, *deltas))
    assert names["problems"] == []
