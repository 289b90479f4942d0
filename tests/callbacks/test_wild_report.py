"""``validate`` in the wild and with a judge: what the files, the page and the terminal say."""

from __future__ import annotations

import json

import pytest
from pyarrow import parquet

from lga_lightning.callbacks import EditReport
from lga_lightning.cli import run
from lga_lightning.evaluation.judge import PROMPT, judge_prompt
from lga_lightning.evaluation.protocols import NEUTRAL_TEXT
from tests.helpers.cli import FAST_EDIT, TWO, forked, refused
from tests.helpers.judge import served

pytestmark = pytest.mark.usefixtures("at_the_shell")

WILD = ["--edits.protocol=wild", "--edits.max_new_tokens=5", "--model.layer=1", "--data.limit=4"]


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("lga_lightning.evaluation.judge_server.PAUSE", 0.0)


def validate(arguments, root, *more):
    run(["validate", *arguments, *FAST_EDIT, *WILD, f"--trainer.default_root_dir={root}", *more])
    return json.loads((root / "validation.json").read_text()), parquet.read_table(root / "requests.parquet").to_pylist()


def test_in_the_wild(arguments, tmp_path, capsys):
    content, rows = validate(arguments, tmp_path / "run", "--edits.text=" + str(_text(tmp_path)))
    words = {"generated", "begins", "contained", "generated_in_context", "contained_in_context", "ended"}
    for family in ("rewrite", "rephrase", "locality"):
        assert words - {"begins"} <= set(content["metrics"][family])
        assert "teacher-forced" in content["metrics"][family]["protocol"]
    assert content["evaluation"]["protocol"] == "wild"
    assert content["evaluation"]["context"] == NEUTRAL_TEXT
    assert content["evaluation"]["in_chat"] is False
    cut = content["evaluation"]["cut"]
    asked = [row for row in rows if row["answers"]]
    assert cut["prompts"] == len(asked) == len(rows) - 4  # but for the plain text
    for row in asked:
        assert row["asked"] == row["prompt"]
        for column in ("said", "said_in_context"):
            assert None not in (row[f"{column}_before"], row[f"{column}_after"])
        assert row["judge_prompt_after"] is row["judge_reply_after"] is row["judged_after"] is None
    for side in ("before", "after"):
        assert cut[side] == sum(row[f"ended_{side}"] == 0 for row in asked) > 0
        rewrites = [row[f"contained_in_context_{side}"] for row in rows if row["group"] == "rewrite"]
        mean = content["metrics"]["rewrite"]["contained_in_context"][side]
        assert mean == pytest.approx(sum(rewrites) / len(rewrites))
    said, page = " ".join(capsys.readouterr().out.split()), (tmp_path / "run" / "report.html").read_text()
    count = f"{cut['before']} of {cut['prompts']} answers before the edits, {cut['after']} after"
    for text in (f"Cut at 5 tokens before their own end: {count}", "In words, 3 of 4:"):
        assert text in said
    assert count in page
    for heading in ("token accuracy", "contained", "contained in context", "ended"):
        assert f'class="group">{heading}</th>' in page
    assert "How the model was asked" in page
    assert "to its own end" in page


def test_two_processes_say_what_one_says(arguments, tmp_path):
    one, rows = validate(arguments, tmp_path / "one")
    root = f"--trainer.default_root_dir={tmp_path / 'two'}"
    found = forked("validate", *arguments, *FAST_EDIT, *WILD, *TWO, root)
    assert found.returncode == 0, found.stderr
    two = json.loads((tmp_path / "two" / "validation.json").read_text())
    assert two["evaluation"] == one["evaluation"]
    again = parquet.read_table(tmp_path / "two" / "requests.parquet").to_pylist()
    assert [row["said_in_context_after"] for row in again] == [row["said_in_context_after"] for row in rows]


def test_a_judge_at_an_address(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LGA_JUDGE_KEY", "open sesame")
    with served(lambda prompt: "hm" if "Oslo" in prompt else "yes") as stub:
        judge = [f"--edits.judge={stub.address}", "--edits.judge_model=m"]
        content, rows = validate(arguments, tmp_path / "run", *judge, "--edits.context=")
        before_the_model = stub.asked[0][1]["messages"][0]["content"]
    assert "two plus two" in before_the_model
    entry = content["evaluation"]["judge"]
    assert (entry["address"], entry["model"], entry["prompt"]) == (stub.address, "m", PROMPT)
    probes = [row for row in rows if row["group"] == "locality.neighborhood"]
    assert entry["verdicts"] == {"responses": 2 * len(rows), "unclear": 2 * len(probes), "missing": 0, "problem": None}
    for row in rows:
        for side in ("before", "after"):
            expected = judge_prompt(row["prompt"], row["answers"], row[f"said_{side}"])
            assert row[f"judge_prompt_{side}"] == expected
            assert row[f"judge_reply_{side}"] == ("hm" if row in probes else "yes")
            assert row[f"judged_{side}"] == (None if row in probes else 1)
    assert content["metrics"]["rewrite"]["judged"]["after"] == 1
    assert "judged" not in content["metrics"]["locality"]
    said = " ".join(capsys.readouterr().out.split())
    unclear = f"neither yes nor no on {2 * len(probes)} of {2 * len(rows)} responses"
    assert unclear in said
    assert "a judge says that the model's own words state the answer" in said
    files = [path for path in (tmp_path / "run").iterdir() if path.is_file()]
    assert len(files) >= 4
    assert not any(b"open sesame" in path.read_bytes() for path in files)


def test_a_judge_that_fails_in_the_midst(arguments, tmp_path, capsys):
    with served(lambda prompt: "yes" if "two plus two" in prompt else (500, "[red]on fire")) as stub:
        content, rows = validate(arguments, tmp_path, f"--edits.judge={stub.address}", "--edits.judge_model=m")
    verdicts = content["evaluation"]["judge"]["verdicts"]
    assert verdicts["missing"] == verdicts["responses"] == 2 * len(rows)
    assert all(row["token_after"] is not None and row["judge_prompt_after"] for row in rows)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"The judge failed: {2 * len(rows)} of {2 * len(rows)} verdicts are missing; those before, and all other"
        in said
    )
    assert "HTTP 500: '[red]on fire'. Try again later" in said
    assert "The judge failed" in (tmp_path / "report.html").read_text()


def test_a_model_judges(arguments, model_folder, tmp_path):
    content, rows = validate(arguments, tmp_path, f"--edits.judge={model_folder}", "--edits.context=", "--data.limit=2")
    verdicts = content["evaluation"]["judge"]["verdicts"]
    assert (verdicts["unclear"], verdicts["missing"]) == (2 * len(rows), 0)
    assert all(row["judge_reply_after"] is not None for row in rows)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--edits.generate=false"], "The protocol 'wild' scores what the model says"),
        (["--edits.judge=http://127.0.0.1:9/v1"], "--edits.judge_model NAME"),
        (["--edits.judge=http://127.0.0.1:9/v1", "--edits.judge_model=m"], "cannot be reached"),
        (["--edits.judge=http://me:pw@host/v1", "--edits.judge_model=m"], "holds a password"),
        (["--edits.judge=no/such/folder"], "Could not load the model 'no/such/folder'"),
        (["--edits.chat=true"], "has no chat template. Leave out --data.chat_template and --edits.chat"),
        (["--edits.judge_model=m"], "`judge_model` names a model on a server"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_edited(more, said, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("lga_lightning.modules.schedules.Independent.step", None)
    root = f"--trainer.default_root_dir={tmp_path}"
    assert said in refused(["validate", *arguments, *FAST_EDIT, *WILD, root, *more], capsys)


def test_predict_can_be_asked_in_the_wild(arguments, tmp_path):
    run(["predict", *arguments, *FAST_EDIT, *WILD, f"--trainer.default_root_dir={tmp_path}", "--edits.context="])
    content = json.loads((tmp_path / "adapter" / "lga.json").read_text())
    assert content["evaluation"]["protocol"] == "wild"
    assert [point["edits"] for point in content["drift"]] == [1, 4]
    assert not any("generated" in point for point in content["drift"])
    assert "contained" in content["metrics"]["rewrite"]


def test_arguments_reach_the_config():
    report = EditReport(protocol="wild", context="It rained.", judge="some/model", max_new_tokens=3)
    assert report.config.settings()["judge"]["model"] == "some/model"
    assert (report.config.context, report.config.limit, report.config.in_the_wild) == ("It rained.", 3, True)


def _text(folder):
    path = folder / "text.txt"
    path.write_text("people say that Rome is in Italy " * 40, encoding="utf-8")
    return path
