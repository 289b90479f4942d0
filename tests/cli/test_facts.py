"""``lga facts`` and ``lga remove``, as a person types them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lga_lightning.cli import run
from lga_lightning.editing import RROME, WeightDelta
from lga_lightning.editing.facts import NO_FACTS
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.job import EditJob
from lga_lightning.models.chat import ChatTokenizer
from lga_lightning.models.loading import load_model
from lga_lightning.reports.adapter_facts import removal_card
from tests.helpers.cli import FAST_METHOD, refused
from tests.helpers.models import requests, tiny_model, tiny_tokenizer
from tests.helpers.tokenizers import LINES


@pytest.fixture
def adapter(tokenizer, tmp_path):
    """Three facts, edited one after the other."""
    model = tiny_model("llama")
    session = EditSession(RROME(**FAST_METHOD), model, tokenizer, 1)
    for one in requests(3):
        session.edit([one])
    session.delta.save_pretrained(tmp_path / "adapter", model, "the/base")
    return tmp_path / "adapter"


def facts_of(folder):
    return json.loads((folder / "facts.json").read_text())["facts"]


def test_the_list_fits_60_columns(adapter, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    run(["facts", str(adapter)])
    out = capsys.readouterr().out
    assert all(len(line) <= 60 for line in out.splitlines())
    assert all(entry["id"] in out for entry in facts_of(adapter))
    assert out.count("exact") == 1
    assert out.count("redo") == 3


def test_the_last_goes_without_a_model(adapter, capsys):
    before, names = WeightDelta.load(adapter), [entry["id"] for entry in facts_of(adapter)]
    run(["remove", str(adapter), "--fact", names[2], "--output", str(adapter.with_name("less"))])
    assert "1 taken out, 2 left: their part was left out, exactly" in capsys.readouterr().out
    less, (module,) = adapter.with_name("less"), before.updates
    torch.testing.assert_close(
        load_file(less / "adapter_model.safetensors")[f"base_model.model.{module}.lora_A.weight"],
        before.updates[module].a[:2],
    )
    assert [entry["id"] for entry in facts_of(less)] == names[:2]
    WeightDelta.load(less, tiny_model("llama"))  # knows its base still
    assert json.loads((less / "lga.json").read_text())["removed"][0]["id"] == names[2]
    assert "# 2 edited facts in the/base" in (less / "README.md").read_text()
    assert len(facts_of(adapter)) == 3


def test_others_are_edited_again(adapter, model_folder, tokenizer, capsys):
    names = [entry["id"] for entry in facts_of(adapter)]
    error = refused(["remove", str(adapter), "--fact", names[0]], capsys)
    assert "2 of the facts that stay were edited with them in place" in error
    assert "--model the/base" in error
    run(["remove", str(adapter), "--fact", names[0], "--model", str(model_folder)])
    assert "the facts that depended on them were edited again" in capsys.readouterr().out
    model = tiny_model("llama")
    session = EditSession(RROME(**FAST_METHOD), model, tokenizer, 1)
    for one in requests(3)[1:]:
        session.edit([one])
    after = WeightDelta.load(adapter, model)
    assert after.facts == session.delta.facts
    for name, update in session.delta.updates.items():
        torch.testing.assert_close(after.matrix(name), update.matrix, rtol=1e-4, atol=1e-5)


def test_what_else_is_in_the_folder_stays(adapter, capsys):
    names = [entry["id"] for entry in facts_of(adapter)]
    evidence = ("validation.json", "requests.parquet", "attribution.json", "report.html")
    for name in (*evidence, "notes of mine.txt"):
        (adapter / name).write_text(f"{name} of three")
    (adapter / "pictures").mkdir()
    (adapter / "pictures" / "a.png").write_bytes(b"picture")
    for number, left in ((2, "three"), (1, "two")):
        run(["remove", str(adapter), "--fact", names[number]])
        assert "Its scores are of the edit before that, and stand in before/" in " ".join(
            capsys.readouterr().out.split()
        )
        assert (adapter / "before" / "validation.json").read_text() == f"validation.json of {left}"
        assert not any((adapter / name).exists() for name in evidence)
        assert (adapter / "notes of mine.txt").read_text() == "notes of mine.txt of three"
        assert (adapter / "pictures" / "a.png").read_bytes() == b"picture"
        assert len(WeightDelta.load(adapter, tiny_model("llama")).facts) == number
        (adapter / "validation.json").write_text("validation.json of two")  # asked anew
    assert {path.name for path in (adapter / "before").iterdir()} == set(evidence)


@pytest.mark.parametrize("in_chat", [True, False])
def test_what_was_edited_in_a_chat_is_edited_again_in_one(in_chat, tmp_path, capsys):
    model, base, folder = tiny_model("llama"), tmp_path / "base", tmp_path / "adapter"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = LINES
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    asking, editor = ChatTokenizer(tokenizer) if in_chat else tokenizer, RROME(**FAST_METHOD)
    delta = editor.compute(model, asking, requests(3), 1)
    delta.save_pretrained(folder, model, str(base))
    assert WeightDelta.load(folder).facts.groups[0].in_chat is in_chat
    run(["remove", str(folder), "--fact", facts_of(folder)[0]["id"], "--model", str(base)])
    after, expected = WeightDelta.load(folder), editor.compute(model, asking, requests(3)[1:], 1)
    for name in expected.updates:
        torch.testing.assert_close(after.matrix(name), expected.matrix(name), rtol=1e-4, atol=1e-5)


def test_what_was_folded_is_folded_again(model_folder, tmp_path, capsys):
    folder, (model, tokenizer) = tmp_path / "adapter", load_model(str(model_folder))
    job = EditJob(RROME(**FAST_METHOD), 1, output=folder, max_rank=1, evaluation=EvaluationConfig(generate=False))
    job.run(model, tokenizer, requests(3))
    note = json.loads((folder / "lga.json").read_text())
    assert note["low_rank"]["max_rank"] == 1
    assert all(error > 0 for error in note["low_rank"]["relative_error"].values())
    run(["remove", str(folder), "--fact", facts_of(folder)[0]["id"], "--model", str(model_folder)])
    assert set(WeightDelta.load(folder).ranks.values()) == {1}
    assert json.loads((folder / "lga.json").read_text())["low_rank"]["max_rank"] == 1


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_it_is_done_in_the_dtype_of_the_edit(dtype, model_folder, tmp_path):
    folder, (model, tokenizer) = tmp_path / "adapter", load_model(str(model_folder), "bfloat16")
    editor = RROME(**FAST_METHOD)
    editor.compute(model, tokenizer, requests(2), 1).save_pretrained(folder, model)
    assert json.loads((folder / "lga.json").read_text())["dtype"] == "bfloat16"
    options = [] if dtype is None else ["--dtype", dtype]
    run(["remove", str(folder), "--fact", facts_of(folder)[0]["id"], "--model", str(model_folder), *options])
    (found,) = WeightDelta.load(folder).updates.values()
    (expected,) = editor.compute(model, tokenizer, requests(2)[1:], 1).updates.values()
    assert torch.allclose(found.matrix, expected.matrix.float()) is (dtype is None)


def test_another_packing_is_refused(adapter, model_folder, capsys):
    pytest.importorskip("torchao")
    again = ["remove", str(adapter), "--fact", facts_of(adapter)[0]["id"], "--model", str(model_folder)]
    error = refused([*again, "--quantization", "int8"], capsys)
    assert "down_proj was edited in plain weights" in error
    assert "has been loaded with Int8Tensor there" in error


def test_a_folder_has_one_name(adapter, monkeypatch):
    """However it is written, what else is in it stays."""
    (adapter / "notes of mine.txt").write_text("mine")
    monkeypatch.chdir(adapter.parent)
    run(["remove", "adapter", "--fact", facts_of(adapter)[2]["id"], "--output", str(adapter), "--overwrite"])
    assert (adapter / "notes of mine.txt").read_text() == "mine"


def test_a_card_of_whole_matrices_names_no_library():
    note = {"base_model": "the/base", "removed": [{}]}
    whole, low = (removal_card(note, NO_FACTS, {"a": 4}, dense) for dense in (True, False))
    assert ("library_name: peft" in low, "Rank 4, by" in low) == (True, True)
    assert ("library_name" in whole, "Whole matrices, by" in whole) == (False, True)


def test_what_is_refused(adapter, capsys, tmp_path):
    first = facts_of(adapter)[0]["id"]
    again = ["remove", str(adapter), "--fact", first, "--model", "never/loaded", "--device", "nowhere"]
    assert "There is no device 'nowhere'" in refused(again, capsys)
    assert "no fact 1234" in refused(["remove", str(adapter), "--fact", "1234"], capsys)
    assert "is not an edit" in refused(["facts", str(tmp_path / "nowhere")], capsys)
    (adapter / "facts.json").unlink()
    assert "has no facts.json" in refused(["facts", str(adapter)], capsys)
    assert "Name one of them" in refused(["facts", str(adapter.parent)], capsys)
