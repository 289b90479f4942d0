"""The verbs on a model in shards: each process that ``torchrun`` starts runs this module with a folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lga_lightning import MEMIT, RROME, EditDataModule, EditMethod, LGAModule
from lga_lightning.callbacks import AdapterWriter, EditReport, ScoreCollector
from lga_lightning.callbacks.checkpoint import CHECKPOINT_FILE
from lga_lightning.models.storage import is_sharded
from lga_lightning.models.weights import weights_hash
from lga_lightning.modules.moments import MomentsModule
from tests.helpers import runs
from tests.helpers.cli import FAST_METHOD


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


def trainer(folder: Path, sharded: bool, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """A quiet trainer, of one process or of two that hold a shard each."""
    return runs.trainer(
        folder,
        *callbacks,
        devices=2 if sharded else 1,
        strategy=ModelParallelStrategy(2, 1, process_group_backend="gloo") if sharded else "auto",
        use_distributed_sampler=False,
        **settings,
    )


def run_verbs(folder: Path, family: str, sharded: bool = False) -> None:
    """Fit, and validate or predict or both; results are left in ``whole`` or ``shards``, in a folder of the family's name.

    Args:
        folder: Has a folder with a model for each family, and ``requests.jsonl``.
        family: A key of ``PLANS``.
        sharded: Whether this is one of two processes with a shard each.
    """
    plan, root = PLANS[family], folder / ("shards" if sharded else "whole") / family
    data = EditDataModule(str(folder / "requests.jsonl"), batch_size=2)
    module = LGAModule(
        str(folder / family), editor=plan.editor(**{**FAST_METHOD, **plan.method}), layer=plan.layer, **plan.settings
    )
    short = {"max_new_tokens": 2, "general": False, "resamples": 20}
    trainer(root, sharded, ScoreCollector(verify=family == "gpt2")).fit(module, datamodule=data)
    before = weights_hash(module.llm)
    assert is_sharded(module.llm) == sharded
    if family != "gemma3_text":
        trainer(root, sharded, EditReport(**short)).validate(module, datamodule=data, verbose=False)
    if family != "llama":
        writer = AdapterWriter(merge=plan.merge, **short)
        trainer(root, sharded, writer).predict(module, datamodule=data, return_predictions=False)
    assert weights_hash(module.llm) == before  # whatever was in place is gone, bit for bit


def count_moments(folder: Path, sharded: bool = False) -> None:
    """Second moments of a llama's block, into the cache."""
    module = MomentsModule(str(folder / "llama"), layers=[1], tokens=200, save_every=0)
    trainer(folder, sharded).predict(module, return_predictions=False)


def resume(folder: Path, family: str) -> None:
    """Go on from the scores of one process, on two that hold a shard each."""
    root, data = folder / "resumed", EditDataModule(str(folder / "requests.jsonl"), batch_size=2)
    module = LGAModule(str(folder / family), editor=PLANS[family].editor(**FAST_METHOD))
    trainer(root, True).fit(module, datamodule=data, ckpt_path=folder / "half" / CHECKPOINT_FILE, weights_only=True)
    assert len(module.scored) == 2


def main() -> None:
    """Every family in turn."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for family in PLANS:
        run_verbs(folder, family, sharded=True)
    resume(folder, "llama")
    count_moments(folder, sharded=True)


if __name__ == "__main__":
    main()
