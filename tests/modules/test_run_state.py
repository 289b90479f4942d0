"""Edits one after the other that are cut off go on, and end where an undisturbed run ends."""

from __future__ import annotations

import json
import logging
import random
import signal
from pathlib import Path

import pytest
import torch

from lga_lightning.callbacks import AdapterWriter, EditReport
from lga_lightning.editing import FTM, MEMIT, RROME, AlphaEdit
from lga_lightning.editing.session import EditSession
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.run_state import STATE_FILE, RunState
from tests.editing.helpers import method_for
from tests.helpers.cli import FAST_EDIT, FAST_METHOD, Forked, forked
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_model
from tests.helpers.runs import module, trainer

COUNT, GROUPS = 13, 7


@pytest.fixture
def data(tmp_path) -> EditDataModule:
    return EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(COUNT))), batch_size=2)


def made_for(kind, tokenizer):
    """A module whose method finds its second moments without text."""
    made = module(tokenizer, layer=[1, 2], mode="sequential", editor=RROME(**FAST_METHOD))
    if kind is not RROME:
        made.editor = method_for(kind, made.llm)
    return made


def run(folder: Path, made, data, **settings) -> dict:
    report = EditReport(generate=False, resamples=10, **{"save_every": 1, "general": False, **settings})
    trainer(folder, report).validate(made, datamodule=data, verbose=False)
    content = json.loads((folder / "validation.json").read_text())
    assert content.pop("growth")[-1]["edits"] == COUNT
    del content["checksum"]  # of times as well
    return content


def cut_off(monkeypatch, group: int) -> list[int]:
    """Interrupts a session in a group, once. The list holds the groups that are begun, in that run and in later ones."""
    begun: list[int] = []
    edit = EditSession.edit

    def count(self, requests, *more):
        begun.append(len(self.requests))
        if len(begun) == group:
            raise RuntimeError("cut off")
        edit(self, requests, *more)

    monkeypatch.setattr(EditSession, "edit", count)
    return begun


@pytest.mark.parametrize(("kind", "every"), [(RROME, 1), (MEMIT, 2), (AlphaEdit, 1), (AlphaEdit, 2), (FTM, 2)])
def test_a_run_that_was_cut_off_ends_where_another_one_ends(kind, every, tmp_path, data, tokenizer, monkeypatch):
    undisturbed = made_for(kind, tokenizer)
    expected = run(tmp_path / "whole", undisturbed, data)
    group = random.Random(f"{kind.__name__} {every}").randint(2, GROUPS)
    begun = cut_off(monkeypatch, group)
    with pytest.raises(RuntimeError, match="cut off"):
        run(tmp_path / "cut", made_for(kind, tokenizer), data, save_every=every)
    saved = (group - 1) // every * every
    assert (tmp_path / "cut" / STATE_FILE).is_file() == bool(saved)
    again = made_for(kind, tokenizer)
    assert run(tmp_path / "cut", again, data, save_every=every) == expected
    assert len(begun) == group + GROUPS - saved
    for name in undisturbed.schedule.delta.updates:
        assert torch.equal(again.schedule.delta.matrix(name), undisturbed.schedule.delta.matrix(name))
    assert not (tmp_path / "cut" / STATE_FILE).exists()


def test_scoring_that_was_cut_off_edits_nothing_again(tmp_path, data, tokenizer, monkeypatch):
    expected = run(tmp_path / "whole", made_for(RROME, tokenizer), data)
    begun = cut_off(monkeypatch, 99)
    with monkeypatch.context() as patch:
        patch.setattr(EditReport, "build_result", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "cut", made_for(RROME, tokenizer), data, save_every=100)
    assert len(begun) == GROUPS
    assert run(tmp_path / "cut", made_for(RROME, tokenizer), data, save_every=100) == expected
    assert len(begun) == GROUPS


def test_what_took_too_long_to_score_is_scored_in_part(tmp_path, data, tokenizer, monkeypatch):
    begun = cut_off(monkeypatch, 99)
    with monkeypatch.context() as patch:
        patch.setattr(EditReport, "build_result", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, made_for(RROME, tokenizer), data)
    assert run(tmp_path, made_for(RROME, tokenizer), data, scored=3)["num_scored"] == 3
    assert len(begun) == GROUPS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method", "method"),
        ("version", "version of lga-lightning"),
        ("weights", "weights"),
        ("requests", "requests"),
        ("batch size", "batch size"),
        ("file", "read"),
    ],
)
def test_the_state_of_another_run_is_not_taken_up(change, said, tmp_path, data, tokenizer, monkeypatch, caplog):
    cut_off(monkeypatch, 4)
    with pytest.raises(RuntimeError, match="cut off"):
        run(tmp_path, made_for(RROME, tokenizer), data)
    other = made_for(RROME, tokenizer)
    if change == "method":
        other.editor = RROME(**{**FAST_METHOD, "steps": 2})
    elif change == "version":
        monkeypatch.setattr("lga_lightning.modules.run_state.__version__", "0.0.1")
    elif change == "weights":
        other.llm.model.layers[2].mlp.down_proj.weight[0, 0] += 1
    elif change == "requests":
        data.source = str(write_rows(tmp_path / "others.jsonl", rows(COUNT + 1)[1:]))
    elif change == "batch size":
        data.batch_size = 3
    else:
        (tmp_path / STATE_FILE).write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        found = run(tmp_path, other, data)
    (message,) = [record.getMessage() for record in caplog.records if STATE_FILE in record.getMessage()]
    assert said in message
    assert "begin anew" in message
    assert found == run(tmp_path / "fresh", other, data)


def test_no_state_is_left_where_none_is_wanted(tmp_path, data, tokenizer, monkeypatch):
    cut_off(monkeypatch, 4)
    with pytest.raises(RuntimeError, match="cut off"):
        run(tmp_path, made_for(RROME, tokenizer), data, save_every=0)
    assert not (tmp_path / STATE_FILE).exists()
    with pytest.raises(ValueError, match="save_every"):
        EditReport(save_every=-1)


def test_a_run_that_keeps_no_state_leaves_that_of_another(tmp_path, data, tokenizer, monkeypatch):
    with monkeypatch.context() as patched:
        cut_off(patched, 4)
        with pytest.raises(RuntimeError, match="cut off"):
            run(tmp_path, made_for(RROME, tokenizer), data)
    left = (tmp_path / STATE_FILE).read_bytes()
    run(tmp_path, made_for(RROME, tokenizer), data, save_every=0)
    assert (tmp_path / STATE_FILE).read_bytes() == left


def test_only_one_process_writes(tmp_path):
    state = RunState(tmp_path / STATE_FILE, {}, 1, writes=False)
    state.save({"a": torch.ones(1)}, {})
    assert state.load() is None
    RunState(state.path, {}, 1).save({"a": torch.ones(1)}, {"b": 2})
    tensors, notes = state.load()
    assert (tensors["a"].tolist(), notes) == ([1.0], {"b": 2})
    state.remove()
    assert state.path.is_file()


def test_predict_goes_on_too(tmp_path, data, tokenizer, monkeypatch):
    def predict(folder):
        writer = AdapterWriter(generate=False, resamples=10, save_every=1, general=False)
        trainer(folder, writer).predict(made_for(RROME, tokenizer), datamodule=data)
        return (folder / "adapter" / "adapter_model.safetensors").read_bytes()

    expected = predict(tmp_path / "whole")
    begun = cut_off(monkeypatch, 5)
    with pytest.raises(RuntimeError, match="cut off"):
        predict(tmp_path / "cut")
    assert predict(tmp_path / "cut") == expected
    assert len(begun) == 5 + GROUPS - 4
    assert not (tmp_path / "cut" / STATE_FILE).exists()


def test_a_session_goes_on_from_its_state(tokenizer):
    model = tiny_model("llama")
    method = method_for(AlphaEdit, model)
    whole, first = (EditSession(method, model, tokenizer, [1, 2]) for _ in range(2))
    for request in requests(4):
        whole.edit([request])
    for request in requests(2):
        first.edit([request])
    second = EditSession(method, model, tokenizer, [1, 2])
    second.load_state_dict(first.state_dict(), first.requests)
    assert second.history.keys() == first.history.keys() == {1, 2}
    for request in requests(4)[2:]:
        second.edit([request])
    assert [request.id for request in second.requests] == [request.id for request in whole.requests]
    for name in whole.delta.updates:
        assert torch.equal(second.delta.matrix(name), whole.delta.matrix(name))
    assert all(torch.equal(second.history[layer], whole.history[layer]) for layer in (1, 2))


def test_a_killed_command_goes_on(tmp_path, arguments):
    """``kill -9`` as soon as there is a state, then the same command again."""
    command = ["validate", *arguments, *FAST_EDIT, "--model.layer=1"]
    command += ["--model.mode=sequential", "--edits.generate=false", "--edits.resamples=10", "--edits.save_every=1"]
    command += ["--edits.general=false"]

    def root(name: str) -> list[str]:
        return [*command, f"--trainer.default_root_dir={tmp_path / name}"]

    assert forked(*root("whole")).returncode == 0
    cut = Forked(*root("cut"))
    cut.wait_for((tmp_path / "cut" / STATE_FILE).exists)
    cut.send(signal.SIGKILL)
    assert cut.end().returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "validation.json").exists()
    assert (tmp_path / "cut" / STATE_FILE).is_file()
    assert forked(*root("cut")).returncode == 0
    found, expected = (json.loads((tmp_path / name / "validation.json").read_text()) for name in ("cut", "whole"))
    assert found.pop("growth")[-1]["edits"] == expected.pop("growth")[-1]["edits"] == COUNT
    assert found.pop("checksum") != expected.pop("checksum")  # of times as well
    assert found == expected
