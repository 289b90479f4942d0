"""Edits that are each made alone: a run that is cut off goes on, and ends where an undisturbed one ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lga_lightning.callbacks import AdapterWriter, EditReport
from lga_lightning.editing import RROME
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.cli import FAST_METHOD
from tests.helpers.data import rows, write_rows
from tests.helpers.runs import module, trainer

COUNT = 13


@pytest.fixture
def facts(tmp_path) -> str:
    return str(write_rows(tmp_path / "requests.jsonl", rows(COUNT)))


@pytest.fixture
def edited(monkeypatch) -> list[int]:
    """The numbers of requests of the batches that are edited, and where the list is told to, the run is cut off."""
    sizes: list[int] = []
    compute = RROME.compute_groups

    def counted(self, model, tokenizer, requests, layers):
        sizes.append(len(requests))
        if len(sizes) == 4:
            raise KeyboardInterrupt
        return compute(self, model, tokenizer, requests, layers)

    monkeypatch.setattr(RROME, "compute_groups", counted)
    return sizes


def validate(folder: Path, tokenizer, facts: str, batch_size: int = 2, devices: int = 1, **settings) -> dict:
    made = module(tokenizer, layer=1, editor=RROME(**FAST_METHOD))
    report = EditReport(**{"resamples": 10, "max_new_tokens": 3, "save_every": 2, **settings})
    data = EditDataModule(facts, batch_size=batch_size)
    trainer(folder, report).validate(made, datamodule=data, verbose=False)
    found = json.loads((folder / "validation.json").read_text())
    assert not list(folder.glob("independent.*"))
    del found["checksum"]
    return found


def test_a_run_that_was_cut_off_ends_where_another_one_ends(tmp_path, tokenizer, facts, edited):
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="The same command goes on"):
        validate(tmp_path / "cut", tokenizer, facts)
    assert edited == [2, 2, 2, 2]
    assert (tmp_path / "cut" / "independent.0.safetensors").is_file()
    found = validate(tmp_path / "cut", tokenizer, facts)
    assert edited[4:] == [2, 2, 2, 1]  # of 13, 6 are done
    assert found == validate(tmp_path / "whole", tokenizer, facts)


def test_with_another_batch_size_too(tmp_path, tokenizer, facts, edited):
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="The same command goes on"):
        validate(tmp_path, tokenizer, facts)
    assert validate(tmp_path, tokenizer, facts, batch_size=5)["num_requests"] == COUNT
    assert sum(edited[4:]) == COUNT - 6  # in whatever batches


def test_what_other_processes_have_saved_counts(tmp_path, tokenizer, facts, edited):
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="The same command goes on"):
        validate(tmp_path, tokenizer, facts)
    (tmp_path / "independent.0.safetensors").rename(tmp_path / "independent.2.safetensors")
    assert validate(tmp_path, tokenizer, facts)["num_requests"] == COUNT
    assert sum(edited[4:]) == COUNT - 6


@pytest.mark.parametrize("settings", [{"max_new_tokens": 4}, {"general": True}, {"save_every": 0}], ids=str)
def test_what_does_not_fit_is_edited_again(settings, tmp_path, tokenizer, facts, edited):
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="The same command goes on"):
        validate(tmp_path, tokenizer, facts)
    made = module(tokenizer, layer=1, editor=RROME(**FAST_METHOD))
    report = EditReport(**{"resamples": 10, "max_new_tokens": 3, "save_every": 2, **settings})
    trainer(tmp_path, report).validate(made, datamodule=EditDataModule(facts, batch_size=8), verbose=False)
    assert edited[4:] == [8, 5]


@pytest.mark.parametrize(("batches", "edits"), [(1, 0), (4, 2)])
def test_ability_of_a_run_that_is_cut_short(batches, edits, tmp_path, tokenizer):
    facts = str(write_rows(tmp_path / "requests.jsonl", rows(60)))
    made, data = module(tokenizer, layer=1, editor=RROME(**FAST_METHOD)), EditDataModule(facts, batch_size=1)
    report = EditReport(resamples=10, generate=False, general=True)
    trainer(tmp_path, report, limit_val_batches=batches).validate(made, datamodule=data, verbose=False)
    content = json.loads((tmp_path / "validation.json").read_text())
    assert content["num_requests"] == batches
    if edits:
        assert f"each item under one of {edits} edits" in content["general"]["edited"]
    else:  # none of those that were to stand for all
        assert "general" not in content


def test_where_edits_are_written_all_are_made(tmp_path, tokenizer, facts, edited):
    made = module(tokenizer, layer=1, editor=RROME(**FAST_METHOD), mode="independent")
    writer = AdapterWriter(generate=False, resamples=10, save_every=1, output=str(tmp_path / "adapters"))
    with pytest.raises(SystemExit):
        trainer(tmp_path, writer).predict(
            made, datamodule=EditDataModule(facts, batch_size=2), return_predictions=False
        )
    assert not list(tmp_path.glob("independent.*"))
