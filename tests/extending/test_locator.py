"""docs/extending/locator.md: its code, as a package outside ours, from the command line."""

from __future__ import annotations

import importlib
import json

import torch

from lga_lightning.cli import run
from lga_lightning.data import load_requests
from lga_lightning.models.loading import load_model
from tests.helpers.cli import QUICK
from tests.helpers.data import rows, write_rows
from tests.helpers.pages import extension


def test_a_locator_of_ones_own(model_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = extension(tmp_path, "extending/locator.md", "locator")
    data = write_rows(tmp_path / "requests.jsonl", rows(5))
    chosen = [f"--model.locator={name}.KeyNorm", "--model.locator.kappa=null"]
    common = [f"--model.model_name={model_folder}", f"--data.requests={data}", *QUICK]
    run(["fit", *common, *chosen, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    result = json.loads((tmp_path / "run" / "attribution.json").read_text())
    locator = importlib.import_module(name).KeyNorm(kappa=None)
    values = locator.score(*load_model(str(model_folder)), load_requests(data).requests).values
    assert result["locator"] == "KeyNorm"
    torch.testing.assert_close(torch.tensor(result["scores"]), values[:, 0].sum(0), rtol=1e-4, atol=1e-5)
