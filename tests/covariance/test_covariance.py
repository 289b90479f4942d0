"""Second moments of keys: the sums, the texts, the cache, going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lga_lightning.covariance import estimate as estimation
from lga_lightning.covariance.accumulator import CovarianceAccumulator
from lga_lightning.covariance.batches import batches
from lga_lightning.covariance.estimate import find_covariances
from lga_lightning.covariance.store import CovarianceKey, load_covariance, save_covariances
from lga_lightning.data.corpus import GENERAL_TEXT
from lga_lightning.editing import MEMIT, ROME, RROME
from lga_lightning.exceptions import DataError
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.generation import sample
from tests.helpers.models import requests, tiny_model

TEXTS = [f"The capital of country {number} is {'very ' * (number % 7)}old." for number in range(60)]
LENGTH = 8


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def plain(model, tokenizer, layer: int, budget: int) -> torch.Tensor:
    """One piece of text at a time, in float64."""
    site, keys, left = edit_site(model, layer), [], budget
    handle = site.module.register_forward_pre_hook(lambda module, args: keys.append(args[0].double().flatten(0, -2)))
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        for start in range(0, len(ids), LENGTH):
            piece = ids[start : start + LENGTH][:left]
            left -= len(piece)
            if piece:
                model(torch.tensor([piece]))
    handle.remove()
    rows = torch.cat(keys)
    assert len(rows) == budget
    return rows.T @ rows / budget


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt", "gptj"])
def test_equals_a_plain_one(family_name, tokenizer, corpus):
    model = tiny_model(family_name)
    found = find_covariances(model, tokenizer, [1, 3], str(corpus), tokens=777, sequence_length=LENGTH)
    for layer in (1, 3):
        torch.testing.assert_close(found[layer], plain(model, tokenizer, layer, 777), rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_sums_stay_exact_over_many_tokens(tokenizer):
    model = tiny_model("llama")
    moments = CovarianceAccumulator(model, [0])
    keys = torch.full((4096, 40), 1.0 + 2**-12)
    for _ in range(64):
        moments._add(0, keys, torch.ones(1, 4096, dtype=torch.bool))
    moments.tokens += 64 * 4096
    exact = (1.0 + 2**-12) ** 2
    assert (moments.means()[0] - exact).abs().max() < 2e-7  # a float32 sum of 262,144 ones is off by 1e-3


def test_two_processes_give_the_sums_of_one(tokenizer, corpus):
    model = tiny_model("gpt2")
    whole = CovarianceAccumulator(model, [1, 2])
    shares = [CovarianceAccumulator(model, [1, 2]) for _ in range(2)]
    for number, batch in enumerate(batches(model, tokenizer, str(corpus), 600, LENGTH)):
        whole.update(model, batch)
        shares[number % 2].update(model, batch)
    shares[0].update(model, [])  # a process that has run out of text
    total = shares[0].tokens + shares[1].tokens
    assert total == whole.tokens == 600
    for layer in (1, 2):
        both = sum(getattr(share, f"sum_{layer}") for share in shares)
        torch.testing.assert_close(both / total, whole.means()[layer], rtol=1e-12, atol=1e-12)


def test_autocast_around_it_changes_nothing(tokenizer, corpus):
    """The cache has one place for what is found with it and without it."""
    model = tiny_model("llama")
    sums = [CovarianceAccumulator(model, [1]) for _ in range(2)]
    for mixed, moments in enumerate(sums):
        with torch.autocast("cpu", enabled=bool(mixed)):
            for batch in batches(model, tokenizer, str(corpus), 600, LENGTH):
                moments.update(model, batch)
    assert torch.equal(sums[0].means()[1], sums[1].means()[1])


def test_the_default_reads_the_text_of_the_package(tokenizer, monkeypatch, caplog):
    model = tiny_model("llama")
    monkeypatch.setattr("lga_lightning.covariance.batches.sample", None)  # nothing is written by the model
    method = RROME()
    method.covariance.tokens = 400
    method.covariance.prepare(model, tokenizer, [1, 2])
    found = find_covariances(model, tokenizer, [1, 2], str(GENERAL_TEXT), 400)
    for layer in (1, 2):
        assert torch.equal(method.covariance._covariances[model][layer], found[layer])
    assert "second moments of 2 layers, from 400 tokens of text (bundled)" in caplog.text
    caplog.clear()
    RROME(moment_tokens=400).covariance.prepare(model, tokenizer, [1])
    assert not caplog.text  # it is in the cache


@pytest.mark.parametrize("source", ["file", "sampled"])
def test_an_interrupted_estimate_goes_on(source, tokenizer, corpus, monkeypatch):
    model = tiny_model("llama")
    source = str(corpus) if source == "file" else source
    expected = find_covariances(model, tokenizer, [1], source, 900, LENGTH)[1]
    key = CovarianceKey.of(model, tokenizer, source, 900, LENGTH)
    (key.folder / "1.safetensors").unlink()

    monkeypatch.setattr(estimation, "SAVE_EVERY", -1.0)
    update, calls = CovarianceAccumulator.update, []

    def counted(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        update(self, *args)

    monkeypatch.setattr(CovarianceAccumulator, "update", counted)
    with pytest.raises(KeyboardInterrupt):
        find_covariances(model, tokenizer, [1], source, 900, LENGTH)
    assert (key.folder / "partial.safetensors").is_file()
    found = find_covariances(model, tokenizer, [1], source, 900, LENGTH)[1]
    assert torch.equal(found, expected)
    total = sum(1 for _ in batches(model, tokenizer, source, 900, LENGTH))
    assert len(calls) == total + 1  # none again but the one that was cut off
    assert not (key.folder / "partial.safetensors").exists()


def test_what_is_there_is_not_made_again(tokenizer, corpus, monkeypatch):
    model = tiny_model("llama")
    first = find_covariances(model, tokenizer, [1, 2], str(corpus), 300, LENGTH)
    monkeypatch.setattr(CovarianceAccumulator, "update", None)
    again = find_covariances(model, tokenizer, [2, 1], str(corpus), 300, LENGTH)
    assert all(torch.equal(first[layer], again[layer]) for layer in (1, 2))


def test_everything_that_enters_is_in_the_key(tokenizer, corpus, tmp_path):
    model = tiny_model("llama")
    key = CovarianceKey.of(model, tokenizer, str(corpus), 300, LENGTH)
    assert key == CovarianceKey.of(tiny_model("llama"), tokenizer, str(corpus), 300, LENGTH)
    other_text = tmp_path / "other" / "texts.jsonl"
    other_text.parent.mkdir()
    other_text.write_text(json.dumps({"text": "Other."}), encoding="utf-8")
    others = [
        CovarianceKey.of(tiny_model("llama", seed=1), tokenizer, str(corpus), 300, LENGTH),
        CovarianceKey.of(tiny_model("llama", torch.float64), tokenizer, str(corpus), 300, LENGTH),
        CovarianceKey.of(model, tokenizer, str(other_text), 300, LENGTH),
        CovarianceKey.of(model, tokenizer, str(corpus), 301, LENGTH),
        CovarianceKey.of(model, tokenizer, str(corpus), 300, LENGTH + 1),
        CovarianceKey.of(model, tokenizer, "sampled", 300, LENGTH),
        replace(key, revision="main"),
        replace(key, tokenizer="other"),
    ]
    assert len({key.folder, *(other.folder for other in others)}) == 9


def test_configurations_of_a_data_set_have_keys_of_their_own(tokenizer, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="a" * 40))
    addresses = ["hub:o/texts", "hub:o/texts?config=en", "hub:o/texts?config=fr", "hub:o/texts?file=fr/b.jsonl"]
    keys = [CovarianceKey.of(tiny_model("llama"), tokenizer, address, 300, LENGTH) for address in addresses]
    assert {key.text_hash for key in keys} == {"a" * 40}
    assert keys[1].text == "o/texts (en, train)"
    assert len({key.folder for key in keys}) == 4


def test_a_file_that_was_made_from_something_else_is_refused(tokenizer, corpus, tmp_path):
    model = tiny_model("llama")
    key = CovarianceKey.of(model, tokenizer, str(corpus), 300, LENGTH)
    moments = CovarianceAccumulator(model, [1])
    moments.update(model, [[5, 6, 7]])
    save_covariances(moments, replace(key, tokens=200, dtype="torch.bfloat16"), tmp_path / "C")
    with pytest.raises(
        DataError, match=r"made from something else: dtype \(torch.bfloat16, not .*\), tokens \(200, not 300"
    ):
        load_covariance(tmp_path / "C", 1, key)
    (tmp_path / "C" / "1.safetensors").rename(tmp_path / "C" / "2.safetensors")
    with pytest.raises(DataError, match="of block 1: it was renamed"):
        load_covariance(tmp_path / "C", 2, key)
    (tmp_path / "C" / "3.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"not a second moment.*Delete it"):
        load_covariance(tmp_path / "C", 3, key)
    assert load_covariance(tmp_path / "C", 0, key) is None


def test_a_folder_of_moments_serves_a_method_of_that_model_alone(tokenizer, corpus, tmp_path):
    model = tiny_model("llama")
    find_covariances(model, tokenizer, [1], str(corpus), 600, LENGTH)
    folder = CovarianceKey.of(model, tokenizer, str(corpus), 600, LENGTH).folder
    quick = {"steps": 2, "contexts_each": 0, "moment_tokens": 600}
    by_folder = ROME(**quick, second_moment=str(folder)).compute(model, tokenizer, requests(2), 1)
    by_text = ROME(**quick, second_moment=str(corpus)).compute(model, tokenizer, requests(2), 1)
    by_text_again = ROME(**quick, second_moment=str(corpus)).compute(model, tokenizer, requests(2), 1)
    # the last one had pieces of another length
    name = "model.layers.1.mlp.down_proj"
    assert torch.equal(by_text.matrix(name), by_text_again.matrix(name))
    assert by_folder.matrix(name).isfinite().all()
    with pytest.raises(DataError, match=r"something else: weights \(.*Run `lga moments`"):
        MEMIT(**quick, second_moment=str(folder)).compute(tiny_model("llama", seed=1), tokenizer, requests(1), 1)
    with pytest.raises(DataError, match="no second moment of block 2"):
        MEMIT(**quick, second_moment=str(folder)).compute(model, tokenizer, requests(1), 2)


def test_no_such_text_and_an_empty_one(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"The file 'owner/name:config' does not exist.*hub:owner/name, with \?config="):
        find_covariances(tiny_model("llama"), tokenizer, [1], "owner/name:config", 100, LENGTH)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"'empty.txt' is empty"):
        find_covariances(tiny_model("llama"), tokenizer, [1], str(tmp_path / "empty.txt"), 100, LENGTH)


def test_moments_of_nan_are_not_kept(tokenizer, corpus, monkeypatch):
    monkeypatch.setattr(estimation, "SAVE_EVERY", -1.0)  # after every batch
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3] = torch.nan
    for _ in range(2):  # nor gone on with
        with pytest.raises(
            DataError, match=r"second moment of block 1 holds NaN .*texts.jsonl.* computes in torch.float32"
        ):
            find_covariances(model, tokenizer, [0, 1], str(corpus), tokens=100, sequence_length=LENGTH)
    key = CovarianceKey.of(model, tokenizer, str(corpus), 100, LENGTH)
    assert not list(key.folder.glob("*.safetensors"))  # finished or begun


def test_the_budget_of_tokens_is_that_of_the_widest_block(tokenizer, corpus):
    model = tiny_model("deepseek_v3")  # a dense block, and two of experts, which are half as wide
    assert [edit_site(model, layer).in_features for layer in range(3)] == [40, 20, 20]
    method = RROME(second_moment=str(corpus))
    for layers in ([1], [0, 2], [1, 0]):
        find_covariances(model, tokenizer, layers, str(corpus))
    folder = CovarianceKey.of(model, tokenizer, str(corpus), method.settings(model)["moment_tokens"], 256).folder
    assert {path.name for path in folder.glob("*.safetensors")} == {f"{layer}.safetensors" for layer in range(3)}


def test_samples_are_the_same_every_time(tokenizer):
    model = tiny_model("gpt2")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = sample(model, tokenizer, 3, 9, seed=5)
    assert torch.equal(torch.rand(3), expected)
    assert first == sample(model, tokenizer, 3, 9, seed=5) != sample(model, tokenizer, 3, 9, seed=6)
    assert [len(row) for row in first] == [9, 9, 9]
    assert sample(model, tokenizer, 3, 1, seed=5) == [row[:1] for row in first]


def test_processes_share_the_drawing_of_text(tokenizer, monkeypatch):
    model, drawn = tiny_model("gpt2"), []
    monkeypatch.setattr(
        "lga_lightning.covariance.batches.sample",
        lambda *given, seed: drawn.append(seed) or sample(*given, seed=seed),
    )
    whole = list(batches(model, tokenizer, "sampled", 5 * 32 * 2 - 7, 2, skip=1))
    shares = [list(batches(model, tokenizer, "sampled", 5 * 32 * 2 - 7, 2, 1, (rank, 3))) for rank in range(3)]
    assert drawn == [1, 2, 3, 4, 1, 4, 2, 3]
    for number, batch in enumerate(whole):
        assert [share[number] for share in shares] == [batch if rank == number % 3 else [] for rank in range(3)]


def test_complete_moments_need_no_lock(tokenizer, corpus, monkeypatch):
    """In a cache that can only be read."""
    model = tiny_model("gpt2")
    asked = {"source": str(corpus), "tokens": 100, "sequence_length": LENGTH}
    before = find_covariances(model, tokenizer, [1], **asked)

    def read_only(*_: object) -> None:
        raise PermissionError("Read-only file system")

    monkeypatch.setattr("filelock.FileLock", read_only)
    assert torch.equal(find_covariances(model, tokenizer, [1], **asked)[1], before[1])
    with pytest.raises(PermissionError):
        find_covariances(model, tokenizer, [2], **asked)
