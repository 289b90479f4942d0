"""The callbacks for transformers' ``Trainer``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments, default_data_collator

from lga_lightning import ApplyEditsCallback, LayerAttributionCallback
from lga_lightning.callbacks.host import HostModel
from lga_lightning.editing import RROME
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model


def trainer(folder: Path, model: PreTrainedModel, tokenizer, epochs: int) -> Trainer:
    """Two steps an epoch, on the CPU, with a checkpoint after each."""
    tokens = torch.randint(3, 300, (4, 8), generator=torch.Generator().manual_seed(0))
    settings = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=2,
        save_strategy="epoch",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    return Trainer(model.requires_grad_(True), settings, default_data_collator, rows, processing_class=tokenizer)


def test_layers_are_scored_and_facts_edited(tmp_path, tokenizer):
    model = tiny_model("llama")
    run = trainer(tmp_path, model, tokenizer, 1)
    layers = LayerAttributionCallback(run, requests(3), verbose=False)
    edits = ApplyEditsCallback(run, requests(2), editor=RROME(**FAST_METHOD), verbose=False)
    run.add_callback(layers)
    run.add_callback(edits)
    run.train()
    assert sum("lga/golden_layer" in entry for entry in run.state.log_history) == 2  # before, and after the epoch
    assert edits.result.layers == [layers.result.golden_layer]
    assert (tmp_path / "attribution.json").is_file()
    edited = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edits.originals.restore_()
    (name,) = edits.delta.updates
    with edits.delta.applied(model):
        assert torch.equal(model.state_dict()[f"{name}.weight"], edited[f"{name}.weight"])


@pytest.mark.parametrize("every", [1, 2])
def test_epochs_are_those_of_the_whole_run(every, tmp_path, tokenizer, monkeypatch):
    """Of one that was resumed, too."""
    trainer(tmp_path, tiny_model("llama"), tokenizer, 1).train()
    seen, score = [], HostModel.score_layers
    again = trainer(tmp_path, tiny_model("llama"), tokenizer, 3)
    monkeypatch.setattr(HostModel, "score_layers", lambda *given: seen.append(again.state.epoch) or score(*given))
    again.add_callback(LayerAttributionCallback(again, requests(3), every_n_epochs=every, verbose=False))
    again.train(resume_from_checkpoint=True)
    assert seen == ([1, 2, 3] if every == 1 else [1, 2])
