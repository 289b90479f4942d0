"""Callbacks of ours in training runs of all kinds: the weights come out as they do without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lga_lightning import EvaluationConfig
from lga_lightning.callbacks import ApplyEdits, LayerAttribution
from lga_lightning.callbacks.host import language_model_of
from lga_lightning.editing import RROME
from lga_lightning.locators import EditForecast
from tests.helpers.cli import FAST_METHOD
from tests.helpers.hosts import Host, train
from tests.helpers.models import requests, tiny_model

ROOT = Path(__file__).parents[2]


class Checkpointing(Host):
    """Works activations out anew in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net.llm.gradient_checkpointing_enable()


class Compiled(Host):
    """A part of its model is compiled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net.llm.model.layers[1].mlp.compile(backend="eager")


class Adapted(Host):
    """Trains a LoRA adapter."""

    def __init__(self) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__()
        config = LoraConfig(r=2, target_modules=["down_proj", "q_proj"], lora_dropout=0.5)
        self.net.llm = get_peft_model(self.net.llm, config)


class Routed(Host):
    """Trains a mixture of experts whose attention has dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net.llm = tiny_model("qwen3_moe", attention_dropout=0.5).requires_grad_(True).train()


RUNS = {
    "mixed precision": (Host, {"precision": "bf16-mixed", "accumulate_grad_batches": 2}),
    "checkpointing": (Checkpointing, {}),
    "compiled": (Compiled, {}),
    "adapter": (Adapted, {}),
    "routed experts": (Routed, {}),
}


@pytest.mark.parametrize("kind", RUNS)
def test_the_weights_are_what_they_are_without_us(kind, tmp_path, tokenizer):
    host_class, settings = RUNS[kind]
    editor = RROME(**FAST_METHOD)
    watch = LayerAttribution(requests(4), "net.llm", tokenizer, EditForecast(editor), every_n_epochs=2, verbose=False)
    edits = ApplyEdits(
        requests(2), "net.llm", tokenizer, 1, editor, evaluation=EvaluationConfig(generate=False), verbose=False
    )
    host = train(tmp_path / "watched", [watch, edits], host_class, **settings)
    alone = train(tmp_path / "alone", [], host_class, **settings)
    assert host.losses == alone.losses
    changed = [name for name, tensor in host.state_dict().items() if not torch.equal(tensor, alone.state_dict()[name])]
    assert len(changed) == 1
    assert re.search(r"layers\.1\.mlp\.(experts\.|)down_proj", changed[0])
    edits.originals.restore_()
    for name, tensor in alone.state_dict().items():
        assert torch.equal(host.state_dict()[name], tensor)
    expected = EditForecast(editor).score(alone.net.llm, tokenizer, requests(4)).values[:, 0].mean(0)
    torch.testing.assert_close(torch.tensor(watch.result.choice.scores), expected, rtol=1e-4, atol=1e-5)


def test_compiled_code_is_put_aside_while_hooks_are_in_place(tokenizer):
    host = Host()
    expected = EditForecast(RROME(**FAST_METHOD)).score(host.net.llm, tokenizer, requests(3)).values
    compiled = Compiled()
    compiled.net.llm(torch.tensor([[3, 4, 5]]))  # before any hook is there
    found = EditForecast(RROME(**FAST_METHOD)).score(compiled.net.llm, tokenizer, requests(3)).values
    torch.testing.assert_close(found, expected)
    assert compiled.net.llm.model.layers[1].mlp._compiled_call_impl is not None


def test_a_model_in_a_compiled_module_is_found(tokenizer):
    host = Host()
    llm, host.net.llm = host.net.llm, torch.compile(host.net.llm)
    found = language_model_of(host, "net.llm", tokenizer, "mine")
    assert found.llm is llm
    assert found.name == "mine"


TWO = """
import sys
from pathlib import Path
import lightning as L
import torch
from lga_lightning import ApplyEdits, EvaluationConfig, LayerAttribution, RROME
from tests.helpers.cli import FAST_METHOD
from tests.helpers.hosts import train
from tests.helpers.models import requests, tiny_tokenizer

torch.set_num_threads(1)
folder = Path(sys.argv[1])

class Keep(L.Callback):
    def __init__(self, name, edits=None):
        self.name, self.edits = name, edits

    def on_fit_end(self, trainer, pl_module):
        kept = {"edited": {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}}
        if self.edits is not None:
            self.edits.originals.restore_()
        torch.save({**kept, "trained": pl_module.state_dict()}, folder / f"{self.name}-{trainer.global_rank}.pt")

editor, tokenizer = RROME(**FAST_METHOD), tiny_tokenizer()
watch = LayerAttribution(requests(3), "net.llm", tokenizer, every_n_epochs=2, verbose=False)
quick = EvaluationConfig(generate=False)
edits = ApplyEdits(requests(2), "net.llm", tokenizer, editor=editor, evaluation=quick, verbose=False)
for name, callbacks in (("watched", [watch, edits, Keep("watched", edits)]), ("alone", [Keep("alone")])):
    train(folder, callbacks, devices=2, strategy="ddp_fork")
"""


def test_two_processes_train_and_edit_alike(tmp_path):
    """As they do without us; and each makes the same edits."""
    command = [sys.executable, "-c", TWO, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = {path.stem: torch.load(path) for path in tmp_path.glob("*.pt")}
    assert sorted(kept) == ["alone-0", "alone-1", "watched-0", "watched-1"]
    for name, tensor in kept["alone-0"]["trained"].items():
        assert all(torch.equal(found["trained"][name], tensor) for found in kept.values())
        assert torch.equal(kept["watched-0"]["edited"][name], kept["watched-1"]["edited"][name])
    edited, trained = kept["watched-0"]["edited"], kept["watched-0"]["trained"]
    assert sum(not torch.equal(tensor, trained[name]) for name, tensor in edited.items()) == 1
