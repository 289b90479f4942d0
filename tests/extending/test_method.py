"""The method of docs/extending/method.md, from outside the package."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

from lga_lightning.cli import run
from lga_lightning.editing import WeightDelta
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.loading import load_model
from tests.helpers.cli import QUICK
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_model
from tests.helpers.pages import extension

FAST = ["--model.editor.steps=3", "--model.editor.contexts_each=1", "--model.editor.context_lengths=[3]"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return extension(tmp_path, "extending/method.md", "method")


@pytest.fixture
def arguments(module, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lga"])
    data = write_rows(tmp_path / "requests.jsonl", rows(5))
    return [
        f"--model.model_name={model_folder}",
        f"--data.requests={data}",
        "--data.batch_size=2",
        "--model.layer=1",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        *QUICK,
        f"--model.editor={module}.LeastSquares",
        *FAST,
        "--model.editor.ridge=0.01",
    ]


def test_it_runs_from_the_command_line(arguments, model_folder, tmp_path):
    run(["validate", *arguments])
    content = json.loads((tmp_path / "run" / "validation.json").read_text())
    method = content["method"]
    assert (method["name"], method["ridge"], method["second_moment"]) == ("least squares", 0.01, "identity")
    assert content["layers"] == [1]
    run(["predict", *arguments])
    model, _ = load_model(str(model_folder))
    delta = WeightDelta.load(tmp_path / "run" / "adapter", model)
    assert delta.ranks == {"model.layers.1.mlp.down_proj": 5}
    assert delta.matrix("model.layers.1.mlp.down_proj").norm() > 1e-3


@pytest.mark.usefixtures("exact")
def test_it_is_least_squares(module, tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(4)
    method = importlib.import_module(module).LeastSquares(ridge=0.5, steps=3, contexts_each=1, context_lengths=(3,))
    targets = method.optimize_targets(model, tokenizer, data, [2])
    k, r = method.contexts.grouped_mean(targets.keys), targets.delta
    name = edit_site(model, 2).name
    found = method.compute(model, tokenizer, data, 2).matrix(name)
    # the normal equations
    torch.testing.assert_close(found @ (k.T @ k + 0.5 * torch.eye(40).double()), r.T @ k, rtol=1e-8, atol=1e-9)
