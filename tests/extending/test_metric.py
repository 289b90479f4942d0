"""The code of docs/extending/metric.md, from the command line."""

from __future__ import annotations

import json

import pytest
from pyarrow import parquet

from lga_lightning.cli import run
from tests.helpers.pages import extension
from tests.test_cli import FAST_EDIT, QUICK, _shell, model_folder, rows, write_rows  # noqa: F401 - fixtures


@pytest.fixture
def command(model_folder, tmp_path, monkeypatch) -> list[str]:  # noqa: F811
    monkeypatch.syspath_prepend(tmp_path)
    data = write_rows(tmp_path / "requests.jsonl", rows(3))
    common = [f"--model.model_name={model_folder}", f"--data.requests={data}", "--model.layer=1", *QUICK, *FAST_EDIT]
    return [
        *common,
        "--data.batch_size=2",
        "--edits.max_new_tokens=5",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]


def test_refusals_are_counted(command, tmp_path):
    metric = extension(tmp_path, "extending/metric.md", "refusals") + ".Refusals"
    root = tmp_path / "run"
    run(["validate", *command, f"--edits.metrics+={metric}", "--edits.fluency=true"])
    table = parquet.read_table(root / "requests.parquet").to_pylist()
    assert all(row["refusals_after"] == 0.0 for row in table if row["answers"])
    assert all(row["refusals_after"] is None for row in table if row["group"] == "fluency")

    opening = next(row["said_before"] for row in table if any(c.isalnum() for c in row["said_before"]))
    given = json.dumps([{"class_path": metric, "init_args": {"openings": [opening]}}])
    run(["validate", *command, "--edits.metrics", given])
    table = parquet.read_table(root / "requests.parquet").to_pylist()
    entry = json.loads((root / "validation.json").read_text())["metrics"]["refusals"]
    assert entry["protocol"] == "share of prompts to which the model's own words begin with a refusal"
    assert entry["num_requests"] == 3
    for side in ("before", "after"):
        assert all(row[f"refusals_{side}"] == 1 for row in table if row[f"said_{side}"] == opening)
        requests = [[row[f"refusals_{side}"] for row in table if row["index"] == number] for number in range(3)]
        assert entry[side] == pytest.approx(sum(sum(found) / len(found) for found in requests) / 3)
        assert entry[f"{side}_ci"][0] <= entry[side] <= entry[f"{side}_ci"][1]
    assert entry["before"] > 0

    run(["validate", *command, "--edits.metrics", given, "--edits.generate=false"])
    assert "refusals" not in json.loads((root / "validation.json").read_text())["metrics"]


def test_adapters_tell_of_them_too(command, tmp_path):
    metric = extension(tmp_path, "extending/metric.md", "refusals") + ".Refusals"
    run(["predict", *command, f"--edits.metrics+={metric}"])
    content = json.loads((tmp_path / "run" / "adapter" / "lga.json").read_text())
    assert content["metrics"]["refusals"]["num_requests"] == 3
