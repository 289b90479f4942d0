"""Which of several processes does what."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import nn

from lga_lightning.exceptions import SettingError
from lga_lightning.models.splitting import is_split_otherwise
from lga_lightning.models.storage import is_sharded


def in_step(trainer: L.Trainer) -> bool:
    """Whether a trainer's processes hold a part of a model each, so that all of them run all of its passes, together.

    Args:
        trainer: The trainer.
    """
    return isinstance(trainer.strategy, ModelParallelStrategy)


def share_of(trainer: L.Trainer) -> tuple[int, int]:
    """Number of this process, and among how many the requests are dealt out; with a model in shards all processes do all of them.

    Args:
        trainer: The trainer.
    """
    return (0, 1) if in_step(trainer) else (trainer.global_rank, trainer.world_size)


def check_strategy(trainer: L.Trainer, spread: bool, model: nn.Module | None) -> None:
    """Refuse a strategy that cannot hold the language model.

    Args:
        trainer: The trainer.
        spread: Whether the model is loaded with a ``device_map``.
        model: The model, where it is not to be loaded.

    Raises:
        SettingError: Says what the strategy can hold, or which one can.
    """
    strategy = trainer.strategy
    if spread and not isinstance(strategy, SingleDeviceStrategy):
        raise SettingError(
            f"`device_map` spreads one model over all devices, in one process, and {type(strategy).__name__} starts "
            f"{trainer.world_size}. Give --trainer.devices 1 (in Python: Trainer(devices=1)), or leave `device_map` out."
        )
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
        raise SettingError(
            f"{type(strategy).__name__} rebuilds a model, in which blocks and matrices cannot be found. For a model in shards take "
            "ModelParallelStrategy (docs/scaling.md)."
        )
    if isinstance(strategy, SingleDeviceStrategy) and strategy.root_device.type == "mps":
        raise SettingError(
            "Apple's GPUs (MPS) have no float64, in which edits are solved. Take the CPU: --trainer.accelerator cpu, in Python "
            "Trainer(accelerator='cpu')."
        )
    if not isinstance(strategy, ModelParallelStrategy):
        return
    sizes = [strategy.device_mesh[name].size() for name in ("data_parallel", "tensor_parallel")]
    if min(sizes) > 1:
        count = trainer.world_size
        raise SettingError(
            f"ModelParallelStrategy would put the model in {sizes[0]} shards with matrices in {sizes[1]} parts, and does one of the two alone here: "
            f"--trainer.strategy.data_parallel_size 1 --trainer.strategy.tensor_parallel_size {count} (matrices), or {count} and 1 (shards). In Python: "
            f"ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size={count})."
        )
    if model is not None and is_split_otherwise(model):
        raise SettingError(
            "`model` has its matrices split by a plan that leaves keys and values in parts, of which edits cannot be made. Give its name "
            "(`model_name`), by which it is loaded and split in another way (docs/scaling.md)."
        )
    if model is not None and not is_sharded(model):
        raise SettingError(
            "ModelParallelStrategy takes a model in shards, and `model` is whole. Give its name (`model_name`), by which it is loaded in shards, "
            "or put it in shards yourself (`torch.distributed.fsdp.fully_shard`, each block and the whole)."
        )
    strategy._save_distributed_checkpoint = False  # checkpoints hold no weights


def loader_of(trainer: L.Trainer) -> Any:
    """What gives the batches of a trainer's present run: a loader, or several; None where there is none.

    Args:
        trainer: The trainer.
    """
    loaders = {
        "fit": trainer.train_dataloader,
        "validate": trainer.val_dataloaders,
        "predict": trainer.predict_dataloaders,
    }
    loader = loaders.get(trainer.state.fn)
    return loader[0] if isinstance(loader, list) and len(loader) == 1 else loader


def check_dealing(trainer: L.Trainer) -> None:
    """Refuse a sampler that deals requests out to processes that have to work in step.

    Args:
        trainer: The trainer, in a run.

    Raises:
        SettingError: If there is one.
    """
    sampler = getattr(loader_of(trainer), "sampler", None)
    if in_step(trainer) and getattr(sampler, "num_replicas", 1) > 1:
        raise SettingError(
            "With a model in shards every process runs all requests, in step with the others, and this DataLoader gives each its share. Use "
            "EditDataModule, or Trainer(use_distributed_sampler=False)."
        )
