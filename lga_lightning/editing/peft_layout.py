"""Updates in the layout of a PEFT adapter: factors by module, and those of a block's experts, of one rank, in two matrices."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lga_lightning.editing.updates import LowRankUpdate
from lga_lightning.models.experts import DOWN
from lga_lightning.models.likelihood import without_peft

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
BASE = ".base_layer"


def plain_name(model: PreTrainedModel, name: str) -> str:
    """Name of a linear map as the model has it that PEFT has wrapped; of any other model the name itself.

    Args:
        model: A language model, within PEFT or not.
        name: Its name in that.
    """
    return name.removeprefix(_wrapper(model)).removesuffix(BASE)


def name_within(model: PreTrainedModel, name: str) -> str:
    """The other way round.

    Args:
        model: A language model, within PEFT or not.
        name: Name of a linear map as the model has it without PEFT.
    """
    name = f"{_wrapper(model)}{name}"
    with suppress(AttributeError):  # of fused experts, which are no modules
        model.get_submodule(f"{name}{BASE}")
        return f"{name}{BASE}"
    return name


def _wrapper(model: PreTrainedModel) -> str:
    base = without_peft(model)
    if base is model:
        return ""
    return next((f"{name}." for name, module in model.named_modules() if module is base and name), "")


def to_peft(
    updates: Mapping[str, LowRankUpdate], content: Mapping[str, Any]
) -> tuple[LoraConfig, dict[str, tuple[Tensor, ...]]]:
    """The configuration of an adapter and its factors.

    Args:
        updates: Updates by the qualified names of modules.
        content: What ``lga.json`` says of them.

    Returns:
        The configuration, and B and A by the names that PEFT's file has behind ``PREFIX``.
    """
    experts = {entry["module"]: entry["experts"] for entry in content["edited"].values() if entry.get("experts")}
    rank = content.get("rank")
    room = rank or max((update.rank for update in updates.values()), default=1)
    if rank or content.get("fused"):  # PEFT's parameters are of one rank
        updates = {name: update if name in experts else update.padded(room) for name, update in updates.items()}
    pairs = {name: update.factors for name, update in updates.items() if name not in experts}
    for fused in dict.fromkeys(map(_fused, experts)):
        mine = {_number(name): updates[name] for name in experts if _fused(name) == fused}
        count = next(count for name, count in experts.items() if _fused(name) == fused)
        pairs[fused] = _join_experts(mine, count, room)
    return _config(updates, room, content, experts), pairs


def from_peft(factors: Mapping[str, Tensor], module: str, rank: int | None, room: int) -> LowRankUpdate:
    """A module's update; an expert's is a part of that of its block's experts, of which each has room for a rank.

    Args:
        factors: What PEFT's file holds.
        module: Qualified name of the module.
        rank: The update's rank, behind which there is padding; None for no padding.
        room: Rank that an expert has room for.
    """
    fused = _fused(module)
    of_expert = fused != module and f"{PREFIX}{fused}.lora_A.weight" in factors
    b, a = (factors[f"{PREFIX}{fused if of_expert else module}.lora_{letter}.weight"] for letter in "BA")
    if of_expert:  # see _join_experts
        number = _number(module)
        b, a = b.unflatten(1, (room, -1))[:, :, number], a.unflatten(0, (-1, room))[number]
    return LowRankUpdate(b[:, :rank], a[:rank])


def _join_experts(updates: Mapping[int, LowRankUpdate], count: int, rank: int) -> tuple[Tensor, Tensor]:
    """One B and one A for all experts of a block, zero for those that are not edited.

    Args:
        updates: Updates of some of the block's experts, by number.
        count: Number of experts, E.
        rank: Rank that each expert gets room for.

    Returns:
        B [d_out, rank E], the experts running fastest, and A [E rank, d_in].
    """
    like = next(iter(updates.values()))
    d_out, d_in = like.shape
    b, a = like.a.new_zeros(d_out, rank, count), like.a.new_zeros(count, rank, d_in)
    for number, update in updates.items():
        b[:, : update.rank, number], a[number, : update.rank] = update.factors
    return b.flatten(1), a.flatten(0, 1)


def _config(
    updates: Mapping[str, LowRankUpdate], rank: int, content: Mapping[str, Any], experts: Mapping[str, int]
) -> LoraConfig:
    from peft import LoraConfig

    ranks = {name: update.rank for name, update in updates.items()}
    others = {} if set(ranks.values()) == {rank} else ranks
    targets: dict[str, Any] = {"target_modules": sorted(ranks), "rank_pattern": others, "alpha_pattern": others}
    if content.get("fused"):
        # PEFT takes names that end as an expert's for those of experts, unless they are names of parameters, of one rank
        parameters = {f"{_fused(name)}.{DOWN}" if name in experts else f"{name}.weight" for name in ranks}
        targets = {"target_modules": [], "target_parameters": sorted(parameters)}
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=content["base_model"],
        inference_mode=True,
        r=rank,
        lora_alpha=rank,  # alpha / r = 1
        fan_in_fan_out=content["transposed"],
        **targets,
    )


def _fused(name: str) -> str:
    """The name of a block's experts, from that of one expert's out-projection: without the number and ``down_proj``."""
    return name.rsplit(".", 2)[0]


def _number(name: str) -> int:
    """The number of an expert, from the name of its out-projection."""
    return int(name.split(".")[-2])
