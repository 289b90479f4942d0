"""Loading in 8 and 4 bits, and what comes quantised."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lga_lightning.exceptions import ModelError
from lga_lightning.models.loading import load_model
from lga_lightning.models.packed import packed_modules
from lga_lightning.models.weights import weights_hash
from tests.helpers.models import tiny_model, tiny_tokenizer
from tests.helpers.quantised import SIZES, quantised


def test_a_wrong_name(quantised_folder):
    with pytest.raises(
        ModelError, match=r"`quantization` must be one of \['int8', 'int4', 'nf4'\] or None, got 'int3'"
    ):
        load_model(str(quantised_folder), quantization="int3")


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_package_that_is_missing(kind, package, quantised_folder, monkeypatch):
    for module in (package, f"{package}.quantization"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=rf"'{kind}' is done by {package}.*lga-lightning\[quantization\]"):
        load_model(str(quantised_folder), quantization=kind)


def test_a_model_without_linear_modules(tmp_path):
    pytest.importorskip("torchao")
    tiny_model("gpt2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"Nothing of a GPT2LMHeadModel can be kept in int8"):
        load_model(str(tmp_path), quantization="int8")


def test_rows_that_are_no_whole_groups(model_folder):
    pytest.importorskip("torchao")
    with pytest.raises(
        ModelError, match=r"Could not load the model .* in int4. .* a multiple of 32 wide.* int8 takes all"
    ):
        load_model(str(model_folder), quantization="int4")


def test_a_checkpoint_that_comes_quantised(quantised_folder, tmp_path):
    model = quantised(quantised_folder, "int8")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    again, _ = load_model(str(tmp_path))
    assert len(packed_modules(again)) == len(packed_modules(model))
    assert weights_hash(again) == weights_hash(model)
    with pytest.raises(
        ModelError, match=r"quantised already \(torchao\), and `quantization` \('int4'\) is for plain ones"
    ):
        load_model(str(tmp_path), quantization="int4")


def test_fp8_is_read_as_plain_weights(quantised_folder, tmp_path):
    pytest.importorskip("transformers", minversion="5", reason="older ones read FP8 on a GPU alone")
    folder = tmp_path / "fp8"
    shutil.copytree(quantised_folder, folder)
    weights, block = load_file(folder / "model.safetensors"), 16
    wanted = {}
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        rows, columns = (size // block for size in weights[name].shape)
        blocks = weights[name].view(rows, block, columns, block)
        scale = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
        weights[name] = (blocks / scale[:, None, :, None]).view(-1, columns * block).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scale
        wanted[name] = weights[name].float() * scale.repeat_interleave(block, 0).repeat_interleave(block, 1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "weight_block_size": [block, block],
        "activation_scheme": "dynamic",
    }
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = load_model(str(folder))
    assert not packed_modules(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, weight in wanted.items():
        torch.testing.assert_close(model.get_parameter(name), weight, rtol=1e-2, atol=1e-3)
    with pytest.raises(ModelError, match=r"quantised already \(fp8\)"):
        load_model(str(folder), quantization="int8")
    assert SIZES["hidden_size"] % block == 0
