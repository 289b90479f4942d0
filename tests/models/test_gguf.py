"""GGUF files: read exactly, converted once, and refused in one sentence where they are broken."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch

from lga_lightning.exceptions import ModelError
from lga_lightning.models import loading
from lga_lightning.models.gguf import is_gguf
from lga_lightning.models.loading import cache_folder, hub_name, load_model, name_of, resolve
from tests.helpers.models import VOCABULARY, tiny_model, tiny_tokenizer

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers", minversion="5")  # older ones get the tokenizer wrong, and are refused


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user's"))
    return cache_folder()


def write_gguf(path: Path, architecture: str = "llama", without: str = "") -> Path:
    """The tiny llama and its tokenizer in a GGUF file, in float32, as llama.cpp's conversion writes them."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    config, vocabulary = model.config, tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    tokens += [f"[PAD{index}]" for index in range(len(tokens), VOCABULARY)]
    special = {"<unk>", "<s>", "</s>"}
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == without:
            continue
        for part, count in heads.items():
            if part in name:  # llama.cpp interleaves the two halves of a head
                weight = weight.view(count, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def test_weights_and_tokens_are_those_in_the_file(file, cache):
    expected, text = tiny_model("llama"), "The capital of France is Rome, é 東"
    model, tokenizer = load_model(str(file))
    weights = model.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in expected.state_dict().items())
    assert model.dtype == torch.float32
    assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    ids = torch.tensor([tokenizer(text).input_ids])
    assert torch.equal(model(ids).logits, expected(ids).logits)
    # what results call it, and what an adapter names as its base, is what it can be loaded by
    assert name_of(model) == hub_name(str(file)) == resolve(str(file))
    assert Path(name_of(model)).parent == cache / "gguf"


def test_no_bar_in_pipes(file, capfd):
    load_model(file)  # a path does, too
    assert "GGUF tensors" not in capfd.readouterr().err


def test_it_is_converted_once_and_anew_when_it_has_changed(file, cache, monkeypatch, caplog):
    first = resolve(str(file))
    assert caplog.text.count("Converting tiny.gguf") == 1
    monkeypatch.chdir(file.parent)
    assert resolve(str(file)) == resolve("tiny.gguf") == first
    assert caplog.text.count("Converting") == 1
    os.utime(file, ns=(0, 0))
    assert resolve(str(file)) != first
    assert caplog.text.count("Converting") == 2
    assert sorted(path.suffix for path in (cache / "gguf").iterdir()) == ["", "", ".lock", ".lock"]


def test_paths(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/tiny.gguf") == resolve(str(file)) == hub_name("~/tiny.gguf")
    upper = file.rename(tmp_path / "UPPER.GGUF")
    assert Path(resolve(str(upper))).name.startswith("UPPER-")
    (tmp_path / "folder.gguf").mkdir()
    assert resolve(str(tmp_path / "folder.gguf")) == str(tmp_path / "folder.gguf")
    assert not is_gguf("owner/model-GGUF")
    assert hub_name("a name, no more.gguf") == "a name, no more.gguf"


def test_a_name_that_begins_like_a_packaged_models(file, tmp_path):
    model, _ = load_model(str(file.rename(tmp_path / "gemma3-270m-q4.gguf")))
    assert name_of(model) == model.config.name_or_path


def test_who_comes_second_waits_for_the_first(file, monkeypatch):
    converted = []

    def slowly(gguf: Path, target: Path) -> None:
        converted.append(gguf)
        time.sleep(0.2)
        target.mkdir()

    monkeypatch.setattr(loading, "dequantise", slowly)
    threads = [threading.Thread(target=resolve, args=[str(file)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert converted == [file]


def test_a_full_disk_leaves_nothing_behind(file, cache, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    with pytest.raises(
        ModelError, match=r"tiny.gguf.*four bytes a parameter.*No space left.*Make room.*XDG_CACHE_HOME"
    ):
        resolve(str(file))
    assert [path.suffix for path in (cache / "gguf").iterdir()] == [".lock"]


def test_a_missing_weight_is_no_random_one(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", without="model.layers.2.mlp.down_proj.weight")
    with pytest.raises(ModelError, match=r"lacks 1 of the model's weights \(model.layers.2.mlp.down_proj.weight\)"):
        resolve(str(file))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file(file, cache, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"Could not read the GGUF file .*tiny.gguf.*be whole. The reader said: "):
        load_model(str(file))
    assert [path.suffix for path in (cache / "gguf").iterdir()] == [".lock"]


def test_other_files(tmp_path):
    odd = write_gguf(tmp_path / "odd.gguf", architecture="chameleon")
    with pytest.raises(ModelError, match=r"an architecture and a quantisation that transformers reads.*chameleon"):
        resolve(str(odd))
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelError, match="not a GGUF file"):
        resolve(str(tmp_path / "text.gguf"))
    with pytest.raises(ModelError, match=r"no GGUF file '.*none.gguf' \(No such file or directory\).*check it"):
        resolve(str(tmp_path / "none.gguf"))


def test_the_package_gguf_is_missing(file, monkeypatch):
    def nothing(*_: object, **__: object) -> None:
        raise ImportError("Please install torch and gguf>=0.10.0 to load a GGUF checkpoint in PyTorch.")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", nothing)
    with pytest.raises(ModelError, match=r"needs the package gguf.*pip install 'lga-lightning\[embedded\]'"):
        resolve(str(file))


def test_an_old_transformers_is_refused(file, monkeypatch):
    monkeypatch.setattr(loading.importlib.metadata, "version", {"transformers": "4.57.6"}.__getitem__)
    with pytest.raises(
        ModelError, match=r"from version 5 on; installed is 4.57.6. Install `lga-lightning\[embedded\]`.$"
    ):
        resolve(str(file))
