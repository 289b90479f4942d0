"""What ``predict`` leaves when it is cut off, cut short, or run again."""

from __future__ import annotations

import json

import pytest

from lga_lightning.callbacks import AdapterWriter
from lga_lightning.editing import RROME, WeightDelta
from lga_lightning.exceptions import ModelError, SettingError
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.cli import FAST_METHOD
from tests.helpers.data import rows, write_rows
from tests.helpers.runs import module, trainer


@pytest.fixture
def data(tmp_path) -> EditDataModule:
    return EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(5))), batch_size=2)


def predict(folder, tokenizer, data, mode="independent", batches=None, editor=None, **settings):
    writer = AdapterWriter(generate=False, resamples=10, general=False, **settings)
    runner = trainer(folder, writer)
    runner.limit_predict_batches = 1.0 if batches is None else batches
    made = module(tokenizer, mode=mode, **({} if editor is None else {"editor": editor}))
    runner.predict(made, datamodule=data, return_predictions=False)
    return made


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_is_cut_off_leaves_no_folder(tmp_path, tokenizer, data, monkeypatch):
    write = AdapterWriter._write

    def cut_off(self, *arguments):
        write(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(AdapterWriter, "_write", cut_off)
    with pytest.raises(SystemExit):
        predict(tmp_path / "run", tokenizer, data)
    monkeypatch.setattr(AdapterWriter, "_write", write)
    assert not names(tmp_path / "run")
    predict(tmp_path / "run", tokenizer, data)
    assert names(tmp_path / "run") == ["adapter"]


class Never(RROME):
    def compute(self, *given, **more):
        pytest.fail("edited")

    compute_groups = compute_each = compute


def broken(*request_numbers: int, empty: bool = False):
    """R-ROME whose edit of some requests is no number, or changes nothing."""

    class Broken(RROME):
        def write(self, model, tokenizer, groups, layers, history=None):
            deltas = super().write(model, tokenizer, groups, layers, history)
            asked = [rows(5)[number]["prompt"] for number in request_numbers]
            for group, delta in zip(groups, deltas, strict=True):
                if any(request.prompt in asked for request in group.requests):
                    for update in delta.updates.values():
                        update.factors[0].fill_(float("nan"))
                    if empty:
                        delta.updates.clear()
            return deltas

    return Broken(**FAST_METHOD)


@pytest.mark.parametrize(("empty", "why"), [(False, "NaN or infinite"), (True, "changes no module")])
def test_an_edit_that_is_broken_is_left_out(empty, why, tmp_path, tokenizer, data, recwarn):
    predict(tmp_path, tokenizer, data, editor=broken(2, empty=empty))
    assert [int(name[:4]) for name in names(tmp_path / "adapter")] == [0, 1, 3, 4]
    said = [str(warning.message) for warning in recwarn if "is left out" in str(warning.message)]
    assert len(said) == 1
    assert rows(5)[2]["prompt"] in said[0]
    assert why in said[0]


@pytest.mark.parametrize("merge", [True, False])
def test_broken_edits_that_are_made_together_are_refused(merge, tmp_path, tokenizer, data):
    with pytest.raises(ModelError, match="NaN or infinite, so it was not written"):
        predict(tmp_path, tokenizer, data, mode="batch", editor=broken(2), merge=merge)
    assert names(tmp_path) == ["requests.jsonl"]


@pytest.mark.parametrize(("mode", "merge"), [("independent", False), ("batch", True), ("batch", False)])
def test_where_nothing_changes_nothing_is_written(mode, merge, tmp_path, tokenizer, data):
    why = "Every edit was left out" if mode == "independent" else "changes no module"
    with pytest.raises(ModelError, match=why):
        predict(tmp_path, tokenizer, data, mode=mode, editor=broken(*range(5), empty=True), merge=merge)
    assert names(tmp_path) == ["requests.jsonl"]


@pytest.mark.parametrize("mode", ["independent", "batch"])
@pytest.mark.parametrize(("below", "why"), [(False, "is there already"), (True, "cannot be written")])
def test_a_file_in_the_way_is_seen_before_any_edit(below, why, mode, tmp_path, tokenizer, data):
    place = tmp_path / "requests.jsonl"
    content, output = place.read_text(), place / "sub" / "adapter" if below else place
    with pytest.raises(SettingError, match=why):
        predict(tmp_path, tokenizer, data, mode=mode, editor=Never(), output=str(output), overwrite=True)
    assert place.read_text() == content


def test_what_is_replaced_is_replaced_whole(tmp_path, tokenizer, data):
    predict(tmp_path, tokenizer, data)
    before = names(tmp_path / "adapter")
    assert [int(name[:4]) for name in before] == [0, 1, 2, 3, 4]
    with pytest.raises(SettingError, match="is there already"):
        predict(tmp_path, tokenizer, data)
    made = predict(tmp_path, tokenizer, data, batches=1, overwrite=True)
    assert names(tmp_path / "adapter") == before[:2]
    for name in before[:2]:
        assert WeightDelta.load(tmp_path / "adapter" / name, made.llm).ranks


@pytest.mark.parametrize("mode", ["batch", "sequential"])
def test_a_run_that_is_cut_short_names_the_facts_that_it_edited(mode, tmp_path, tokenizer, data):
    predict(tmp_path, tokenizer, data, mode, batches=1)
    note = json.loads((tmp_path / "adapter" / "lga.json").read_text())
    page = (tmp_path / "adapter" / "README.md").read_text()
    assert note["num_requests"] == len(note["requests"]) == 2
    assert "2 edited facts" in page
    shown = [request.prompt in page for request in data.loaded.requests]
    assert shown == [True, True, False, False, False]
