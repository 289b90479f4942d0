"""The verbs on a model in shards, and with split matrices: each process that ``torchrun`` starts runs this module with a folder."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh
from transformers import PreTrainedModel

from lga_lightning import MEMIT, RROME, EditDataModule, EditMethod, LGAModule, edit, find_golden_layer
from lga_lightning.callbacks import AdapterWriter, EditReport, ScoreCollector
from lga_lightning.callbacks.checkpoint import CHECKPOINT_FILE
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.hooks import OutputGradients, frozen, kept_output
from lga_lightning.models.splitting import split_
from lga_lightning.models.storage import held, is_sharded
from lga_lightning.models.weights import weights_hash
from lga_lightning.modules.moments import MomentsModule
from tests.helpers import runs
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model, tiny_tokenizer

KINDS = {"shards": (2, 1), "split": (1, 2)}
"""Data parallel and tensor parallel size, by the name of the folder for results."""

FAMILIES = {"shards": ("llama", "gpt2", "gemma3_text"), "split": ("llama", "gemma3_text")}
"""Families with which the verbs are run."""

UNEVEN = {"hidden_size": 27, "intermediate_size": 41, "num_attention_heads": 3, "num_key_value_heads": 1}
PASSES = {"gpt2": {}, "qwen3": UNEVEN, "falcon": {}, "gemma4_text": {}}
"""Families, and their settings, that are split and compared without a Trainer: transposed matrices, nothing that can be dealt out evenly, matrices
and embeddings of a kind of their own."""


@dataclass(frozen=True)
class Plan:
    """What is run with a model of one family."""

    editor: type[EditMethod] = RROME
    layer: Any = "golden"
    settings: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    merge: bool = False


PLANS = {
    "llama": Plan(settings={"activation_checkpointing": True}),
    "gpt2": Plan(merge=True, settings={"mode": "sequential"}),
    "gemma3_text": Plan(MEMIT, [1, 2], {"mode": "batch"}, {"second_moment": "bundled", "moment_tokens": 300}),
}


def trainer(folder: Path, kind: str, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """A quiet trainer, of one process (``whole``) or of two that hold a part of the model each."""
    strategy = ModelParallelStrategy(*KINDS[kind], process_group_backend="gloo") if kind in KINDS else "auto"
    return runs.trainer(
        folder,
        *callbacks,
        devices=2 if kind in KINDS else 1,
        strategy=strategy,
        use_distributed_sampler=False,
        **settings,
    )


def run_verbs(folder: Path, family: str, kind: str = "whole") -> None:
    """Fit, and validate or predict or both; results are left in the kind's folder, in one of the family's name.

    Args:
        folder: Has a folder with a model for each family, and ``requests.jsonl``.
        family: A key of ``PLANS``.
        kind: A key of ``KINDS`` if this is one of two processes, else ``whole``.
    """
    plan, root = PLANS[family], folder / kind / family
    data = EditDataModule(str(folder / "requests.jsonl"), batch_size=2)
    module = LGAModule(
        str(folder / family), editor=plan.editor(**{**FAST_METHOD, **plan.method}), layer=plan.layer, **plan.settings
    )
    short = {"max_new_tokens": 2, "general": False, "resamples": 20}
    trainer(root, kind, ScoreCollector(verify=family == "gpt2")).fit(module, datamodule=data)
    before = weights_hash(module.llm)
    assert is_sharded(module.llm) == (kind in KINDS)
    if family != "gemma3_text":
        trainer(root, kind, EditReport(**short)).validate(module, datamodule=data, verbose=False)
    if family != "llama":
        writer = AdapterWriter(merge=plan.merge, **short)
        trainer(root, kind, writer).predict(module, datamodule=data, return_predictions=False)
    assert weights_hash(module.llm) == before  # whatever was in place is gone, bit for bit


def count_moments(folder: Path, kind: str = "whole") -> None:
    """Second moments of a llama's block, into the cache."""
    module = MomentsModule(str(folder / "llama"), layers=[1], tokens=200, save_every=0)
    trainer(folder, kind).predict(module, return_predictions=False)


def resume(folder: Path, family: str) -> None:
    """Go on from the scores of one process, on two that hold a shard each."""
    root, data = folder / "resumed", EditDataModule(str(folder / "requests.jsonl"), batch_size=2)
    module = LGAModule(str(folder / family), editor=PLANS[family].editor(**FAST_METHOD))
    trainer(root, "shards").fit(module, datamodule=data, ckpt_path=folder / "half" / CHECKPOINT_FILE, weights_only=True)
    assert len(module.scored) == 2


def found(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What hooks see of a block's out-projection; the layers' scores; an edit of the block, and what the model gives with it in the weights."""
    tokens, site, tokenizer = torch.arange(5, 29).view(2, 12), edit_site(model, 1), tiny_tokenizer()
    seen = {}
    gradients = OutputGradients(lambda _, key, gradient: seen.update({"key": key, "gradient": gradient}))
    with frozen(model), gradients.watch([(1, site.module)]), kept_output(site.module) as values:
        logits = model(input_ids=tokens, use_cache=False).logits
        gradients.backward(logits.log_softmax(-1)[:, -1, 7].sum())
    editor, facts = RROME(**FAST_METHOD), requests(2)
    scores = torch.tensor(find_golden_layer(model, tokenizer, facts, editor=editor).signed_scores)
    delta = edit(model, tokenizer, facts, layer=1, editor=editor)
    with delta.applied(model):
        edited = model(input_ids=tokens, use_cache=False).logits
    everything = {
        **seen,
        "value": values[0],
        "logits": logits,
        "scores": scores,
        "edit": delta.matrix(site.name),
        "edited": edited,
    }
    return {name: tensor.detach() for name, tensor in everything.items()}


def compare_passes() -> dict[str, dict[str, float]]:
    """By family, the largest difference in what is found of the whole and of the split model, over the largest number; and the part that is held."""
    mesh, differences = init_device_mesh("cpu", (2,)), {}
    for family, settings in PASSES.items():
        whole, split = (tiny_model(family, dtype=torch.float64, **settings) for _ in range(2))
        split_(split, mesh)
        part = sum(tensor.numel() for tensor in held(split)) / sum(tensor.numel() for tensor in held(whole))
        pairs = zip(found(whole).items(), found(split).values(), strict=True)
        differences[family] = {"part": part} | {
            name: float((one - other).abs().max() / one.abs().max()) for (name, one), other in pairs
        }
    return differences


def main() -> None:
    """Every family in turn."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for kind in KINDS:
        os.environ["XDG_CACHE_HOME"] = str(folder / f"cache of {kind}")
        for family in FAMILIES[kind]:
            run_verbs(folder, family, kind)
        count_moments(folder, kind)
    resume(folder, "llama")
    differences = compare_passes()
    if torch.distributed.get_rank() == 0:
        (folder / "passes.json").write_text(json.dumps(differences))


if __name__ == "__main__":
    main()
