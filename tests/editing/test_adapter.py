"""Edits on disk: PEFT reads them, we read them back, and nothing is lost on the way."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from lga_lightning.editing import FTM, MEMIT, RROME, DenseUpdate, LowRankUpdate, WeightDelta
from lga_lightning.editing.adapter import read_note, resave_updates, save_updates
from lga_lightning.editing.facts import NO_FACTS, Facts
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import DataError, ModelError, SettingError
from lga_lightning.models.architecture import edit_site
from lga_lightning.utils.checksums import with_checksum
from lga_lightning.utils.io import write_json
from tests.editing.helpers import delta_for, ids, method_for, name_at
from tests.helpers.models import requests, tiny_model

FAMILIES = pytest.mark.parametrize("family_name", ["llama", "gpt2", "qwen2", "gptj", "opt"])


def edits(model, tokenizer) -> dict[str, WeightDelta]:
    """Of rank 1, several stacked, a batch over several layers, and more edits than the matrix has rows."""
    data = requests(8)
    rome = RROME(steps=4, context_lengths=(3,), contexts_each=1, second_moment="identity")
    run = EditSession(rome, model, tokenizer, 1)
    for start in range(0, 6, 2):
        run.edit(data[start : start + 2])
    return {
        "rank 1": rome.compute(model, tokenizer, data[:1], 2),
        "stacked": run.delta,
        "several layers": method_for(MEMIT, model).compute(model, tokenizer, data[:4], [0, 1, 2]),
        "unequal ranks": delta_for(model, {0: 2, 2: 5}, dtype=torch.float32),
        "more than full": delta_for(model, {1: 30}, dtype=torch.float32),
    }


@FAMILIES
def test_peft_gives_the_logits_of_the_edited_model(family_name, tokenizer, tmp_path):
    model = tiny_model(family_name)
    for name, delta in edits(model, tokenizer).items():
        folder = tmp_path / name
        delta.save_pretrained(folder, model, "base/name")
        plain = model(input_ids=ids()).logits
        with delta.applied(model):
            edited = model(input_ids=ids()).logits
        base = tiny_model(family_name)
        adapted = PeftModel.from_pretrained(base, folder)
        torch.testing.assert_close(adapted(input_ids=ids()).logits, edited, rtol=1e-4, atol=1e-4)
        assert (edited - plain).abs().max() > 1e-2
        torch.testing.assert_close(adapted.unload()(input_ids=ids()).logits, plain, rtol=0, atol=0)
        again = WeightDelta.load(folder, tiny_model(family_name))
        assert list(again.updates) == list(delta.updates)
        for name_of_module in delta.updates:
            torch.testing.assert_close(again.matrix(name_of_module), delta.matrix(name_of_module), rtol=1e-6, atol=1e-6)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "base/name"
        assert max(again.ranks.values()) <= 24


def test_two_folders_stack(tokenizer, tmp_path):
    model = tiny_model("gpt2")
    first, second = delta_for(model, {1: 1}, dtype=torch.float32), delta_for(model, {1: 2, 2: 1}, 1, torch.float32)
    first.save_pretrained(tmp_path / "a", model)
    second.save_pretrained(tmp_path / "b", model)
    both = WeightDelta.load(tmp_path / "a", model) + WeightDelta.load(tmp_path / "b", model)
    with (first + second).applied(model):
        expected = model(input_ids=ids()).logits
    with both.applied(model):
        torch.testing.assert_close(model(input_ids=ids()).logits, expected)


@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_dense_edits_are_their_matrices_alone(family_name, tokenizer, tmp_path):
    model = tiny_model(family_name)
    delta = FTM(steps=2).compute(model, tokenizer, requests(2), [1, 3])
    delta.save_pretrained(tmp_path / "ft", model)
    tensors = load_file(tmp_path / "ft" / "delta.safetensors")
    assert sorted(tensors) == [f"{edit_site(model, layer).name}.weight" for layer in (1, 3)]
    assert {path.name for path in (tmp_path / "ft").iterdir()} == {"delta.safetensors", "facts.json", "lga.json"}
    again = WeightDelta.load(tmp_path / "ft", model)
    assert all(torch.equal(again.matrix(name), delta.matrix(name)) for name in delta.updates)
    with delta.applied(model):
        expected = model(input_ids=ids()).logits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    undo = again.merge_(model)
    torch.testing.assert_close(model(input_ids=ids()).logits, expected, rtol=0, atol=0)
    undo.restore_()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_adapter_of_another_model_is_refused(tmp_path):
    model = tiny_model("llama")
    delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained(tmp_path / "a", model, "the/base")
    with pytest.raises(DataError, match=r"another base model \('the/base'\).*down_proj"):
        WeightDelta.load(tmp_path / "a", tiny_model("llama", seed=1))
    with pytest.raises(DataError, match=r"another base model.*down_proj, which is not here"):
        WeightDelta.load(tmp_path / "a", tiny_model("gpt2"))
    delta = WeightDelta.load(tmp_path / "a", tiny_model("llama").bfloat16())  # the same, in another dtype
    with delta.applied(model), pytest.raises(DataError, match="without any edit"):
        WeightDelta.load(tmp_path / "a", model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("made_in", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("checkpoint", [torch.bfloat16, torch.float32])
def test_the_base_is_known_in_another_dtype(checkpoint, made_in, dtype, tmp_path):
    def base(in_dtype: torch.dtype):
        model = tiny_model("llama").to(checkpoint)
        with torch.no_grad():
            edit_site(model, 1).weight.mul_(1e-3)  # many entries that float16 has fewer digits for than bfloat16
        return model.to(in_dtype)

    model = base(made_in)
    delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained(tmp_path / "a", model)
    rounded_twice = checkpoint == torch.float32 and {made_in, dtype} == {torch.float16, torch.bfloat16}
    if rounded_twice:  # the checkpoint's own digits are in neither
        with pytest.raises(DataError, match="if it was or is in float16, in the dtype that it was made in"):
            WeightDelta.load(tmp_path / "a", base(dtype))
    else:
        WeightDelta.load(tmp_path / "a", base(dtype))
    with pytest.raises(DataError, match="another base model"):
        WeightDelta.load(tmp_path / "a", tiny_model("llama", seed=1).to(dtype))


def test_an_adapter_without_the_hash_in_half_is_read(tmp_path):
    model = tiny_model("llama")
    delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained(tmp_path / "a", model)
    note = read_note(tmp_path / "a")
    for entry in note["edited"].values():
        del entry["weight_in_half"]
    write_json(tmp_path / "a" / "lga.json", with_checksum(note))
    WeightDelta.load(tmp_path / "a", model.bfloat16())


@pytest.mark.parametrize("broken", ["nothing", "no note", "no factors", "note", "factors"])
def test_broken_folders(broken, tmp_path):
    model, folder = tiny_model("llama"), tmp_path / "a"
    if broken != "nothing":
        delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained(folder, model)
        if broken == "no note":
            (folder / "lga.json").unlink()
        elif broken == "no factors":
            (folder / "adapter_model.safetensors").unlink()
        else:
            path = folder / {"note": "lga.json", "factors": "adapter_model.safetensors"}[broken]
            path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="is not an edit that lga-lightning wrote, or it is broken"):
        WeightDelta.load(folder, model)


def test_a_home_folder_is_one_and_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = tiny_model("llama")
    delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained("~/mine", model)
    assert list(WeightDelta.load("~/mine", model).updates) == [name_at(model, 1)]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_overwritten_unasked(tmp_path):
    model, folder = tiny_model("llama"), tmp_path / "a"
    first, second = delta_for(model, {1: 1}, dtype=torch.float32), delta_for(model, {2: 1}, 1, torch.float32)
    first.save_pretrained(folder, model)
    with pytest.raises(SettingError, match=r"is there already and is not overwritten\. .* `overwrite=True`\.$"):
        second.save_pretrained(folder, model)
    assert not (folder / "README.md").exists()  # which would be empty: scores are what a card has
    assert list(WeightDelta.load(folder, model).updates) == [name_at(model, 1)]
    second.save_pretrained(folder, model, overwrite=True)
    assert list(WeightDelta.load(folder, model).updates) == [name_at(model, 2)]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match="not a folder"):
        second.save_pretrained(tmp_path / "file", model, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "file"}  # no scratch left


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_the_old_folder(overwrite, tmp_path, monkeypatch):
    model, folder = tiny_model("llama"), tmp_path / "a"
    if overwrite:
        delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained(folder, model)
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if overwrite else None

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lga_lightning.editing.adapter.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save_updates(delta_for(model, {2: 1}, dtype=torch.float32).updates, folder, model, "base", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == (["a"] if overwrite else [])
    if overwrite:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_edit_of_nothing_is_not_written(tmp_path):
    with pytest.raises(ModelError, match="changes no module, so there is nothing to write"):
        WeightDelta({}).save_pretrained(tmp_path / "a", tiny_model("llama"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [LowRankUpdate, DenseUpdate])
def test_what_would_break_the_model_is_not_written(kind, broken, tmp_path):
    model = tiny_model("llama")
    edit = delta_for(model, {0: 1, 1: 2}, dtype=torch.float32)
    first, name = (name_at(model, layer) for layer in (0, 1))
    update = edit.updates[name] if kind is LowRankUpdate else DenseUpdate(edit.matrix(name))
    update.factors[0].view(-1)[3] = broken
    with pytest.raises(
        ModelError, match=f"The edit of {name} has entries that are NaN or infinite, so it was not written"
    ):
        WeightDelta({first: edit.updates[first], name: update}).save_pretrained(tmp_path / "adapter", model, "the/base")
    assert not list(tmp_path.iterdir())


def test_modules_may_share_a_factor(tmp_path):
    model, b = tiny_model("llama"), torch.ones(24, 1)
    names = [name_at(model, layer) for layer in (0, 1)]
    WeightDelta({name: LowRankUpdate(b, torch.ones(1, 40)) for name in names}).save_pretrained(tmp_path / "a", model)
    assert all(update.b.equal(b) for update in WeightDelta.load(tmp_path / "a", model).updates.values())


def test_what_is_written_again_changes_no_other_module(tmp_path):
    model, folder = tiny_model("llama"), tmp_path / "a"
    delta_for(model, {1: 1}, dtype=torch.float32).save_pretrained(folder, model)
    other = delta_for(model, {1: 1, 2: 1}, dtype=torch.float32).updates
    with pytest.raises(ModelError, match=rf"change {name_at(model, 2)}, which the adapter .* does not"):
        resave_updates(other, folder, tmp_path / "b", read_note(folder), NO_FACTS, lambda scratch: None)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("layer", [1, 2])
def test_an_edit_within_peft_is_one_of_the_model_without(layer, tmp_path):
    """Whether the edited matrix has a LoRA of its own or not."""
    model, folder = tiny_model("llama"), tmp_path / "a"
    name, config = name_at(model, layer), LoraConfig(target_modules=r".*layers\.1.*down_proj")
    wrapped = get_peft_model(tiny_model("llama"), config)
    updates = delta_for(wrapped, {layer: 2}, dtype=torch.float32).updates
    made = WeightDelta(updates, Facts.of(requests(2), updates, True, True, [layer], {"name": "R-ROME"}))
    with made.applied(wrapped):
        edited = wrapped(input_ids=ids()).logits
    made.save_pretrained(folder, wrapped, "the/base")
    assert [entry["module"] for entry in read_note(folder)["edited"].values()] == [name]
    for base in (model, wrapped):
        again = WeightDelta.load(folder, base)
        assert list(again.updates) == list(again.facts.groups[0].columns) == [name_at(base, layer)]
        with again.applied(base):
            torch.testing.assert_close(base(input_ids=ids()).logits, edited)
    adapted = PeftModel.from_pretrained(model, folder)
    torch.testing.assert_close(adapted(input_ids=ids()).logits, edited, rtol=1e-4, atol=1e-4)


def test_the_base_is_the_model_without_what_is_applied(tmp_path):
    model = tiny_model("llama")
    first, later = (delta_for(model, {1: 1}, seed, torch.float32) for seed in (0, 1))
    with first.applied(model), later.applied(model):
        later.save_pretrained(tmp_path / "a", model)
    WeightDelta.load(tmp_path / "a", model)


def test_experts_side_by_side_are_not_edited_as_one(tmp_path):
    model = tiny_model("qwen3_moe")
    site = edit_site(model, 1)
    update = LowRankUpdate(torch.ones(site.out_features, 1), torch.ones(1, site.in_features))
    whole = WeightDelta({site.name: update})
    for use in (whole.merge_, lambda model: whole.save_pretrained(tmp_path / "a", model)):
        with pytest.raises(ModelError, match=r"are experts side by side.* Make it by `WeightDelta\.at"):
            use(model)
    WeightDelta.at(site, update).save_pretrained(tmp_path / "a", model)
