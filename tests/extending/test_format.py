"""A format from outside the package, as its page has it."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lga_lightning import __main__ as entry
from lga_lightning.cli import run
from lga_lightning.data import Format, Probe, Record, load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import DataError
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.models import tiny_model, tiny_tokenizer
from tests.helpers.pages import extension

ROWS = [
    {
        "question": f"Who has seen Oslo {number}?",
        "about": f"Oslo {number}",
        "answer": "Rome",
        "also_asked_as": "Who was there?",
        "same_topic": [{"question": "Who has seen Bergen?", "answer": ["Ada", "Eve"]}],
    }
    for number in range(5)
]


@pytest.fixture
def class_path(tmp_path, monkeypatch) -> str:
    """Dotted name of the page's class, on the path; trivia.jsonl is in the working directory."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("trivia.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return f"{extension(tmp_path, 'extending/format.md', 'trivia')}.Trivia"


def made(class_path: str) -> Format:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)()


def test_in_python(class_path):
    loaded = load_requests("trivia.jsonl", made(class_path))
    assert loaded.format == "trivia"
    assert len(loaded.requests) == len(ROWS)
    assert loaded.requests[0] == EditRequest(
        prompt="Who has seen Oslo 0?",
        subject="Oslo 0",
        target_new="Rome",
        rephrases=("Who was there?",),
        locality={"topic": (Probe("Who has seen Bergen?", ("Ada", "Eve")),)},
        id="trivia.jsonl, line 1",
    )


def test_what_is_wrong_with_a_record_is_said_as_for_our_own(class_path):
    Path("trivia.jsonl").write_text(json.dumps({**ROWS[0], "answer": 3}))
    with pytest.raises(DataError, match=r"trivia.jsonl, line 1: the field 'answer' must be a string, got 3"):
        load_requests("trivia.jsonl", made(class_path))
    Path("trivia.jsonl").write_text("\n".join(json.dumps(row) for row in (ROWS[0], {**ROWS[1], "about": "Mars"})))
    assert load_requests("trivia.jsonl", made(class_path)).skipped == {"subject not in the prompt": 1}


def test_on_the_command_line(class_path, monkeypatch, tmp_path):
    tiny_model("llama").save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    common = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.default_root_dir=run"]
    monkeypatch.setattr(sys, "argv", ["lga"])
    run(["fit", "--model.model_name=model", "--data.requests=trivia.jsonl", f"--data.format={class_path}", *common])
    assert json.loads(Path("run/attribution.json").read_text())["num_requests"] == len(ROWS)
    config = Path("run/lga_fit.yaml")
    assert yaml.safe_load(config.read_text())["data"]["format"]["class_path"] == class_path
    Path("run/attribution.json").unlink()
    run(["fit", f"--config={config}"])
    assert json.loads(Path("run/attribution.json").read_text())["num_requests"] == len(ROWS)


@pytest.mark.parametrize("given", ["csv", "extras.trivia.Quiz", "extras.trivia.read_trivia", "pathlib.Path"])
@pytest.mark.usefixtures("class_path")
def test_a_format_that_is_none_is_refused_with_the_names(given, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga", "fit", f"--data.format={given}"])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "zsre_mend_eval" in said


def test_a_format_without_a_class_of_its_own_and_with_a_note(class_path):
    def read(record: Record, zsre_target: str) -> EditRequest | None:
        if record.text("question").endswith("0?"):
            return None
        return EditRequest(record.text("question"), record.text("about"), f"{record.text('answer')}, {zsre_target}")

    quiz = Format("quiz", ("question", "about"), read, options=("zsre_target",), note="answers: {zsre_target}")
    data = EditDataModule("trivia.jsonl", quiz, zsre_target="answers[0]")
    data.setup("fit")
    assert data.name == "trivia.jsonl, answers: answers[0]"
    assert {request.target_new for request in data.loaded.requests} == {"Rome, answers[0]"}
    assert len(data.loaded.requests) == len(ROWS) - 1
    assert data.loaded.filtered == {"no request can be made of it": 1}


def test_a_class_in_place_of_an_object_is_refused(class_path):
    with pytest.raises(DataError, match="or a Format of your own, got <class"):
        load_requests("trivia.jsonl", type(made(class_path)))
