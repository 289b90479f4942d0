"""Who does what where a model is in shards, and which strategies are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, DistributedSampler

from lga_lightning import LGAModule
from lga_lightning.callbacks.shares import check_dealing, check_strategy, in_step, share_of
from lga_lightning.exceptions import SettingError
from tests.helpers.models import requests, tiny_model


def trainer(strategy: Strategy, **more: Any) -> Any:
    """The second of four processes."""
    return SimpleNamespace(strategy=strategy, global_rank=1, world_size=4, **more)


def in_parts(shards: int, matrices: int) -> ModelParallelStrategy:
    """A strategy whose processes have met."""
    strategy, sizes = ModelParallelStrategy(), {"data_parallel": shards, "tensor_parallel": matrices}
    strategy._device_mesh = {name: SimpleNamespace(size=lambda size=size: size) for name, size in sizes.items()}
    return strategy


def test_requests_are_dealt_out_where_each_process_has_the_whole_model():
    assert share_of(trainer(DDPStrategy())) == (1, 4)
    assert share_of(trainer(ModelParallelStrategy())) == (0, 1)
    assert not in_step(trainer(DDPStrategy()))


@pytest.mark.parametrize(
    ("strategy", "spread", "model", "said"),
    [
        (DDPStrategy(), True, False, "devices 1"),
        (SingleDeviceStrategy("mps"), False, False, "have no float64.* --trainer.accelerator cpu"),
        (FSDPStrategy.__new__(FSDPStrategy), False, False, "take ModelParallelStrategy"),
        (DeepSpeedStrategy.__new__(DeepSpeedStrategy), False, False, "take ModelParallelStrategy"),
        (in_parts(2, 2), False, False, "data_parallel_size 1 --trainer.strategy.tensor_parallel_size 4"),
        (in_parts(4, 1), False, True, "`model` is whole"),
        (in_parts(1, 4), False, True, "`model` is whole"),
    ],
    ids=["device_map", "mps", "fsdp1", "deepspeed", "both", "whole for shards", "whole for split matrices"],
)
def test_what_cannot_hold_the_model_is_refused(strategy, spread, model, said, llama):
    with pytest.raises(SettingError, match=said):
        check_strategy(trainer(strategy), spread, llama if model else None)


def test_what_can_is_not(llama):
    check_strategy(trainer(SingleDeviceStrategy("cpu")), True, None)
    check_strategy(trainer(DDPStrategy()), False, llama)
    check_strategy(trainer(in_parts(4, 1)), False, None)
    check_strategy(trainer(in_parts(1, 4)), False, None)


@pytest.mark.parametrize(
    ("owner", "mark"), [("", "_tp_size"), ("model.layers.1.mlp.down_proj", "_distribute_module_applied")]
)
def test_matrices_that_leave_keys_in_parts_are_refused(owner, mark):
    model = tiny_model("llama")
    setattr(model.get_submodule(owner), mark, 4)  # as transformers does, and `parallelize_module`
    with pytest.raises(SettingError, match="leaves keys and values in parts"):
        check_strategy(trainer(in_parts(1, 4)), False, model)


def test_a_sampler_that_deals_out_is_refused_where_all_work_in_step():
    asked = requests(4)
    dealt = DataLoader(asked, sampler=DistributedSampler(asked, 2, 0))
    settings = {"state": SimpleNamespace(fn=TrainerFn.FITTING), "val_dataloaders": None, "predict_dataloaders": None}
    check_dealing(trainer(DDPStrategy(), train_dataloader=dealt, **settings))
    check_dealing(trainer(in_parts(4, 1), train_dataloader=DataLoader(asked), **settings))
    with pytest.raises(SettingError, match="use_distributed_sampler=False"):
        check_dealing(trainer(in_parts(4, 1), train_dataloader=dealt, **settings))


def test_a_model_at_hand_is_not_spread(llama, tokenizer):
    with pytest.raises(SettingError, match="Leave out one of them"):
        LGAModule(model=llama, tokenizer=tokenizer, device_map="auto")
