"""Structures of odd families: what the general rules refuse works once somebody says where the parts are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPTQConfig, PreTrainedModel

from lga_lightning.exceptions import ModelError
from lga_lightning.models import structure as structures
from lga_lightning.models.architecture import attention, blocks, edit_site, scored_sites
from lga_lightning.models.structure import Structure, register_structure, structure_of
from tests.helpers.models import tiny_model


class Stages(nn.Module):
    """Blocks in two lists of unequal length, which a model runs as if they were one."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.early, self.late = layers[:3], layers[3:]

    def __getitem__(self, index: slice) -> list[nn.Module]:
        return [*self.early, *self.late][index]


class StagedStructure(Structure):
    def blocks(self, model: PreTrainedModel) -> list[str]:
        early, late = (f"model.layers.{name}" for name in ("early", "late"))
        return [*(f"{early}.{i}" for i in range(3)), f"{late}.0"]


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(structures, "_REGISTERED", {})


@pytest.fixture
def staged(llama):
    llama.model.layers = Stages(llama.model.layers)
    return llama


def test_blocks_in_two_lists(staged):
    ids = torch.arange(3, 12).unsqueeze(0)
    torch.testing.assert_close(staged(ids).logits, tiny_model("llama")(ids).logits)
    with pytest.raises(ModelError, match=r"Structure found no transformer blocks in .*docs/extending/structure.md"):
        blocks(staged)
    register_structure("llama", StagedStructure())
    assert blocks(staged) == [*staged.model.layers.early, staged.model.layers.late[0]]
    assert edit_site(staged, 3).name == "model.layers.late.0.mlp.down_proj"
    assert attention(staged, 3) is staged.model.layers.late[0].self_attn
    names = [site.name for site in scored_sites(staged, "mlp")[1]]
    assert names == [f"model.layers.early.1.mlp.{name}_proj" for name in ("gate", "up", "down")]


def test_the_one_registered_last_holds(llama):
    class Second(Structure):
        pass

    register_structure("llama", StagedStructure())
    register_structure("llama", Second())
    assert type(structure_of(llama)) is Second
    assert type(structure_of(tiny_model("gpt2"))) is Structure
    assert len(blocks(llama)) == 4


def test_attention_within_another_module(llama):
    class Mixer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

    class Mixed(Structure):
        def attention(self, block):
            return ["self_attn.inner"]

    for block in blocks(llama):
        block.self_attn = Mixer(block.self_attn)
    with pytest.raises(ModelError, match=r"exactly one attention module in block 0 .*found 0 \(none\)"):
        attention(llama, 0)
    register_structure("llama", Mixed())
    assert attention(llama, 0) is blocks(llama)[0].self_attn.inner
    inner = [site.name.split(".")[-2:] for site in scored_sites(llama, "attention")[0]]
    assert inner == [["inner", f"{name}_proj"] for name in "qkvo"]
    assert [site.name.split(".")[-1] for site in scored_sites(llama)[0]] == ["gate_proj", "up_proj", "down_proj"]


def test_a_norm_after_the_mlp(llama):
    class Normed(Structure):
        def norm_after_mlp(self, block):
            return "post_attention_layernorm"

    assert edit_site(llama, 2).norm is None
    register_structure("llama", Normed())
    assert edit_site(llama, 2).norm is blocks(llama)[2].post_attention_layernorm


NONSENSE = {
    "blocks": ([], r"Odd found no transformer blocks in LlamaForCausalLM \(model type 'llama'\)"),
    "blocks: no such module": (["model.h.0"], r"Odd.blocks must return names of modules .* got \['model.h.0'\]"),
    "blocks: no names": (4, "Odd.blocks must return names of modules .* got 4"),
    "blocks: modules": ([nn.Linear(1, 1)], "Odd.blocks must return names of modules"),
    "out_projections": ([], r"exactly one matrix .*found 0 \(none\)"),
    "out_projections: no such module": (["mlp.fc"], r"Odd.out_projections must return names of modules .*'mlp.fc'"),
    "out_projections: no matrix": (
        ["mlp.act_fn"],
        "Odd.out_projections must return names of linear maps, got .*act_fn",
    ),
    "out_projections: another width": (
        ["mlp.up_proj"],
        "Odd.out_projections must return a matrix .*width, 24, got .*40",
    ),
    "mlp_matrices": (["mlp"], r"Odd.mlp_matrices must return names of linear maps, got \('mlp', 'LlamaMLP'\)"),
    "norm_after_mlp": ("norm", r"Odd.norm_after_mlp must return names of modules .*\['norm'\]"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_gives_one_clear_error(llama, case):
    given, message = NONSENSE[case]
    odd = type("Odd", (Structure,), {case.split(":")[0]: lambda *args: given})
    register_structure("llama", odd())
    with pytest.raises(ModelError, match=message) as error:
        scored_sites(llama, "mlp")
    assert "model type 'llama'" in str(error.value)


def test_a_quantisation_that_cannot_be_read_is_named(llama):
    class Packed(nn.Module):
        """As GPTQ, AWQ and HQQ have in the place of a linear map."""

    for block in blocks(llama):
        block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj = Packed(), Packed(), Packed()
    with pytest.raises(ModelError, match=r"found 0 \(none\)"):
        edit_site(llama, 1)
    for config in ({"quant_method": "gptq"}, GPTQConfig(bits=4)):
        llama.config.quantization_config = config
        with pytest.raises(ModelError, match=r"block 1 .*weights are quantised \(gptq\).* torchao or bitsandbytes"):
            edit_site(llama, 1)


def test_a_class_is_no_structure():
    with pytest.raises(TypeError, match=r"must be an instance of Structure, got <class.*OddStructure\(\)"):
        register_structure("llama", StagedStructure)
