"""Runs that a governor stops: what is kept, and what files and people are told."""

from __future__ import annotations

import json

import pytest
import torch
from pyarrow import parquet

from lga_lightning.callbacks import AdapterWriter, EditReport
from lga_lightning.editing import WeightDelta
from lga_lightning.editing.governor import Governor
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from tests.helpers.cli import FAST_EDIT, TWO, forked, refused
from tests.helpers.data import rows, write_rows
from tests.helpers.growing import Growing
from tests.helpers.runs import module, trainer

COUNT = 13
EDITED = "model.layers.1.mlp.down_proj"
STOPPED = {
    "reason": "the change of a block's weights is 0.9 of their norm (limit 0.75)",
    "made": 9,
    "edits": 6,
    "left_out": 7,
}


@pytest.fixture
def data(tmp_path) -> EditDataModule:
    return EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(COUNT))), batch_size=3)


def governed(tokenizer, governor: Governor, **settings) -> LGAModule:
    """Of 13 edits in groups of 3, each adds 0.1 to the relative norm."""
    return module(tokenizer, editor=Growing(0.1), mode="sequential", governor=governor, **settings)


def validate(made, data, folder) -> dict:
    trainer(folder, EditReport(generate=False, resamples=10)).validate(made, datamodule=data, verbose=False)
    content = json.loads((folder / "validation.json").read_text())
    return {name: part for name, part in content.items() if name not in ("growth", "checksum")}  # of times


def test_files_hold_the_edits_that_are_kept(tmp_path, data, tokenizer, capsys):
    made = governed(tokenizer, Governor(relative_norm=0.75, every=1))
    content = validate(made, data, tmp_path)
    requests = data.loaded.requests
    assert content["governor"]["stopped"] == STOPPED
    assert content["governor"]["looks"] == [
        {"edits": edits, "relative_norm": pytest.approx(edits / 10, rel=1e-5)} for edits in (3, 6, 9)
    ]
    assert (content["governor"]["relative_norm"], content["governor"]["every"]) == (0.75, 1)
    assert content["num_requests"] == 6
    assert [row["prompt"] for row in content["requests"]] == [request.prompt for request in requests[:6]]
    assert [point["edits"] for point in content["drift"]] == [3, 6]
    assert content["drift"][-1]["relative_change"]["1"] == pytest.approx(0.6, rel=1e-5)
    assert set(parquet.read_table(tmp_path / "requests.parquet")["index"].to_pylist()) == set(range(6))
    delta = Growing(0.1).delta(made.llm, [1], 6)
    torch.testing.assert_close(made.schedule.delta.matrix(EDITED), delta.matrix(EDITED))
    results = evaluate(made.llm, tokenizer, requests[:6], [delta] * 6, EvaluationConfig(generate=False))
    expected = [next(one.scores["token"][1] for one in of_request if one.group == "rewrite") for of_request in results]
    assert [row["rewrite"]["after"] for row in content["requests"]] == pytest.approx(expected)
    said = " ".join(capsys.readouterr().out.split())
    sentence = (
        f"The governor stopped the run: after 9 edits, {STOPPED['reason']}. Kept, whole: the first 6, which the last look before found "
        "within the limits. Requests that are not edited: 7."
    )
    assert sentence in said
    assert "governor stopped the run: after 9 edits" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_is_of_the_edits_that_are_kept(merge, tmp_path, data, tokenizer):
    made = governed(tokenizer, Governor(relative_norm=0.75, every=2))
    trainer(tmp_path, AdapterWriter(generate=False, resamples=10, merge=merge)).predict(made, datamodule=data)
    folder = tmp_path / ("merged" if merge else "adapter")
    note, card = json.loads((folder / "lga.json").read_text()), (folder / "README.md").read_text()
    assert note["governor"]["stopped"] == {**STOPPED, "made": 12, "reason": STOPPED["reason"].replace("0.9", "1.2")}
    assert len(note["requests"]) == 6
    assert "6 edited facts" in card
    assert "The governor stopped the run" in card
    if not merge:
        delta = Growing(0.1).delta(made.llm, [1], 6)
        torch.testing.assert_close(WeightDelta.load(folder, made.llm).matrix(EDITED), delta.matrix(EDITED))


def test_within_the_limits_nothing_changes(tmp_path, data, tokenizer, capsys):
    free = validate(module(tokenizer, editor=Growing(0.1), mode="sequential"), data, tmp_path / "free")
    assert "governor" not in free
    made = governed(tokenizer, Governor(perplexity_ratio=1e9, relative_norm=1.31, locality=1e-9))
    content = validate(made, data, tmp_path / "governed")
    found = content.pop("governor")
    assert content == free
    assert [look["edits"] for look in found["looks"]] == [3, 13]
    assert all(set(look) == {"edits", "perplexity_ratio", "locality", "relative_norm"} for look in found["looks"])
    assert (found["stopped"], found["text"]) == (None, "the package's own")
    assert "The governor took 2 looks, and no limit was passed." in " ".join(capsys.readouterr().out.split())
    assert "The governor took 2 looks" in (tmp_path / "governed" / "report.html").read_text()


def test_a_look_at_the_end_may_be_the_one_that_stops(tmp_path, data, tokenizer):
    content = validate(governed(tokenizer, Governor(relative_norm=1.25)), data, tmp_path)
    assert content["governor"]["stopped"]["made"] == 13
    assert (content["num_requests"], content["governor"]["stopped"]["left_out"]) == (3, 10)


def test_a_second_run_begins_anew(tmp_path, data, tokenizer):
    made = governed(tokenizer, Governor(relative_norm=0.75, every=1))
    assert validate(made, data, tmp_path) == validate(made, data, tmp_path)


def test_the_text_of_the_run_is_read(tmp_path, data, tokenizer):
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris . " * 40)
    made = governed(tokenizer, Governor(perplexity_ratio=1e9))
    report = EditReport(generate=False, resamples=10, text=str(text))
    trainer(tmp_path, report).validate(made, datamodule=data, verbose=False)
    assert json.loads((tmp_path / "validation.json").read_text())["governor"]["text"] == "given"
    assert list(made.schedule._watch.passages) == list(report.evaluation.passages)


def test_what_cannot_be_governed_is_refused(tmp_path, tokenizer):
    for mode in (None, "independent", "batch"):
        with pytest.raises(SettingError, match=r"`governor` watches edits .* one group after the other"):
            module(tokenizer, mode=mode, governor=Governor(locality=0.5))
    bare = [{**row, "locality": {}} for row in rows(3)]
    data = EditDataModule(str(write_rows(tmp_path / "bare.jsonl", bare)))
    with pytest.raises(DataError, match="none of the requests has a locality probe"):
        validate(governed(tokenizer, Governor(locality=0.5)), data, tmp_path)
    with pytest.raises(SettingError, match="first group of 3 edits alone passes a limit"):
        validate(governed(tokenizer, Governor(relative_norm=0.01)), data, tmp_path)
    assert not (tmp_path / "validation.json").exists()


@pytest.mark.usefixtures("at_the_shell")
def test_one_process_and_two_stop_at_the_same_edit(arguments, tmp_path, capsys):
    words = [*arguments, *FAST_EDIT, "--model.layer=1", "--model.mode=sequential", "--edits.generate=false"]
    free = forked("validate", *words, f"--trainer.default_root_dir={tmp_path / 'free'}")
    assert free.returncode == 0, free.stderr
    sizes = [
        point["relative_change"]["1"] for point in json.loads((tmp_path / "free/validation.json").read_text())["drift"]
    ]
    limit = (sizes[0] + sizes[-1]) / 2
    governor = [f"--model.governor.relative_norm={limit}", "--model.governor.every=1"]
    found = []
    for name, devices in (("one", []), ("two", TWO)):
        root = tmp_path / name
        done = forked("validate", *words, *governor, f"--trainer.default_root_dir={root}", *devices)
        assert done.returncode == 0, done.stderr
        assert "The governor stopped the run" in " ".join(done.stdout.split())
        found.append(json.loads((root / "validation.json").read_text()))
    one, two = (content["governor"]["stopped"] for content in found)
    assert {**one, "reason": ""} == {**two, "reason": ""}
    assert 0 < one["edits"] == found[0]["num_requests"] == found[1]["num_requests"] < 13
    assert [row["prompt"] for row in found[0]["requests"]] == [row["prompt"] for row in found[1]["requests"]]
    assert one["edits"] + one["left_out"] == 13
    said = refused(["validate", *words, "--model.governor.locality=1.5"], capsys)
    assert said.startswith("lga: `locality` is a share, above 0 and at most 1, got 1.5.")
