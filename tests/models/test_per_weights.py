"""What was found out about weights goes when they change for good, and stays under edits that are taken out again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from lga_lightning.editing import RROME, CrispEdit, UltraEdit
from lga_lightning.editing.session import EditSession
from lga_lightning.locators import EditForecast
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.per_weights import PerWeights
from tests.editing.helpers import QUICK, delta_for, name_at
from tests.helpers.models import requests, tiny_model

METHODS = {
    "R-ROME": lambda: RROME(moment_tokens=300, **QUICK),
    "UltraEdit": lambda: UltraEdit(warmup=4),
    "CrispEdit": lambda: CrispEdit(epochs=2, batch_size=3, curvature_tokens=300),
}
EVERY_METHOD = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def train_(model) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@EVERY_METHOD
def test_after_a_training_it_is_as_with_a_new_method(make, tokenizer):
    model, data, method = tiny_model("llama"), requests(3), make()
    forecast = EditForecast(make())
    before = method.compute(model, tokenizer, data, 1).matrix(name_at(model, 1))
    score_all(forecast, model, tokenizer, data)
    train_(model)
    session = EditSession(method, model, tokenizer, 1)
    session.edit(data)
    assert torch.equal(
        session.delta.matrix(name_at(model, 1)), make().compute(model, tokenizer, data, 1).matrix(name_at(model, 1))
    )
    assert not torch.equal(session.delta.matrix(name_at(model, 1)), before)
    again, anew = (score_all(one, model, tokenizer, data).compute()[1] for one in (forecast, EditForecast(make())))
    assert torch.equal(again.nan_to_num(), anew.nan_to_num())


@EVERY_METHOD
def test_under_edits_it_is_the_unedited_model_s(make, tokenizer):
    model, data, method = tiny_model("llama"), requests(3), make()
    tables = [table for part in (method, *vars(method).values()) for table in getattr(part, "__dict__", {}).values()]
    tables = [table for table in tables if isinstance(table, PerWeights)]
    method.compute(model, tokenizer, data, 1)
    found = [table[model] for table in tables]
    with delta_for(model, {0: 1, 1: 2}).applied(model):
        method.compute(model, tokenizer, data, 1)
    method.compute(model, tokenizer, data, 1)
    originals = delta_for(model, {0: 1, 1: 2}).merge_(model)
    method.compute(model, tokenizer, data, 1)
    originals.restore_()
    method.compute(model, tokenizer, data, 1)
    assert found
    assert all(table[model] is one for table, one in zip(tables, found, strict=True))
    originals = delta_for(model, {0: 1, 1: 2}).merge_(model)
    train_(model)
    originals.restore_()
    method.compute(model, tokenizer, data, 1)
    assert not any(table[model] is one for table, one in zip(tables, found, strict=True))


def test_copies_and_other_processes():
    model = tiny_model("llama")
    table = PerWeights()
    table[model] = [1]
    assert table.of(model, list) == copy.deepcopy(table).of(model, list) == [1]
    assert len(pickle.loads(pickle.dumps(table))) == 0
    assert isinstance(pickle.loads(pickle.dumps(table)), PerWeights)
    train_(model)
    assert table.of(model, list) == []


@pytest.mark.parametrize(("kind", "setting"), [(RROME, "second_moment"), (CrispEdit, "curvature_text")])
def test_the_hash_of_a_text_is_of_the_one_that_was_taken_in(kind, setting, tmp_path, tokenizer, monkeypatch):
    model, path = tiny_model("llama"), tmp_path / "mine.txt"
    path.write_text("Rome is in Italy. " * 40, encoding="utf-8")
    method = kind(**{setting: str(path)})
    method.prepare(model, tokenizer, [1])
    before = method.settings(model)
    path.write_text("Rome is in Spain. " * 40, encoding="utf-8")
    with (
        monkeypatch.context() as patched
    ):  # of a sharded model a look at the weights takes all processes, and files are one's
        patched.setattr(
            "lga_lightning.models.per_weights.weights_sample", lambda _: pytest.fail("weights are looked at")
        )
        assert method.settings(model) == before
    train_(model)
    method.prepare(model, tokenizer, [1])
    assert [name for name, value in method.settings(model).items() if value != before[name]] == [f"{setting}_hash"]
