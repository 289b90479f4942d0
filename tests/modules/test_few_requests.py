"""Fewer requests than processes: each is scored and edited, once."""

from __future__ import annotations

import json

import lightning as L
import pytest

from lga_lightning.callbacks import AdapterWriter, EditReport
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.data import rows, write_rows
from tests.helpers.runs import module


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_one_request_on_three_processes(verb, tmp_path, tokenizer):
    collectors = {
        "fit": [],
        "validate": [EditReport(generate=False, resamples=10, general=False)],
        "predict": [AdapterWriter(generate=False, resamples=10, general=False)],
    }
    runner = L.Trainer(
        accelerator="cpu",
        devices=3,
        strategy="ddp_fork",
        callbacks=collectors[verb],
        default_root_dir=tmp_path / "run",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_epochs=1,
    )
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(1))), batch_size=2)
    made = module(tokenizer, mode=None if verb == "fit" else "independent")
    getattr(runner, verb)(made, datamodule=data)
    left = {
        "fit": {"attribution.ckpt", "attribution.json", "layers.png", "report.html"},
        "validate": {"report.html", "requests.parquet", "validation.json"},
        "predict": {"adapter"},
    }
    assert {path.name for path in (tmp_path / "run").iterdir()} == left[verb]
    if verb == "predict":
        (folder,) = (tmp_path / "run" / "adapter").iterdir()
        assert folder.name.startswith("0000-")
    else:
        name = {"fit": "attribution", "validate": "validation"}[verb]
        assert json.loads((tmp_path / "run" / f"{name}.json").read_text())["num_requests"] == 1
