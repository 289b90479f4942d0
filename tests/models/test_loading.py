"""Finding models by name."""

from __future__ import annotations

import pytest

from lga_lightning.exceptions import ModelError
from lga_lightning.models import loading
from lga_lightning.models.loading import EMBEDDED_HUB_ID, cache_folder, load_model, load_tokenizer, resolve
from tests.helpers.models import tiny_model, tiny_tokenizer


def test_the_embedded_model_comes_from_the_hub_where_the_package_is_missing(monkeypatch):
    monkeypatch.setattr(loading, "EMBEDDED_PACKAGE", "no-such-package")
    assert resolve("smollm2-135m") == EMBEDDED_HUB_ID
    assert resolve("gpt2") == "gpt2"


def test_the_embedded_model_needs_a_transformers_that_reads_it(monkeypatch):
    monkeypatch.setattr(loading, "EMBEDDED_PACKAGE", "transformers")  # whatever is there
    monkeypatch.setattr(loading.importlib.metadata, "version", lambda name: {"transformers": "4.57.6"}[name])
    with pytest.raises(
        ModelError, match=r"needs transformers 5 or later.*installed is 4.57.6.*\[embedded\].*SmolLM2-135M"
    ):
        resolve("smollm2-135m")
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


def test_messages(tmp_path):
    with pytest.raises(ModelError, match=r"Could not load the model .* The loader said"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ModelError, match="`dtype` must be"):
        load_model("gpt2", dtype="int3")
