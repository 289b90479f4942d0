"""``lga facts`` and ``lga remove``, as a person types them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lga_lightning.cli import run
from lga_lightning.editing import RROME, WeightDelta
from lga_lightning.editing.session import EditSession
from tests.helpers.cli import FAST_METHOD, refused
from tests.helpers.models import requests, tiny_model


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


def test_what_is_refused(adapter, capsys, tmp_path):
    assert "no fact 1234" in refused(["remove", str(adapter), "--fact", "1234"], capsys)
    assert "is not an edit" in refused(["facts", str(tmp_path / "nowhere")], capsys)
    (adapter / "facts.json").unlink()
    assert "has no facts.json" in refused(["facts", str(adapter)], capsys)
    assert "Name one of them" in refused(["facts", str(adapter.parent)], capsys)
