"""Where an adapter can be served: the ranks and the rules of vLLM's loader, which takes less than PEFT does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lga_lightning.editing.adapter import CONFIG, FACTORS
from lga_lightning.editing.peft_layout import PREFIX
from lga_lightning.exceptions import DataError
from lga_lightning.utils.io import user_path

SERVED_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as ``--max-lora-rank``: the room that it keeps for each adapter."""


def served_rank(rank: int) -> int:
    """The smallest of ``SERVED_RANKS`` that has room for a rank; the largest of them if none has.

    Args:
        rank: A rank.

    Example:
        >>> served_rank(1), served_rank(200), served_rank(1000)
        (8, 256, 512)
    """
    return next((served for served in SERVED_RANKS if served >= rank), SERVED_RANKS[-1])


def check_servable(folder: str | Path) -> list[str]:
    """What keeps vLLM from serving an adapter as PEFT runs it, a sentence each; nothing if it can.

    The rules are those of its loader: one rank and one scaling for all modules (``rank_pattern`` and ``alpha_pattern`` are not read),
    ranks up to 512, plain LoRA of linear modules without biases, whole modules or DoRA, and tensors by PEFT's names. That
    the base model's family takes LoRA there at all is said by vLLM's list of supported models.

    Args:
        folder: The adapter's folder.

    Raises:
        DataError: If its files cannot be read.

    Example:
        >>> check_servable("nowhere")
        ['It holds no LoRA adapter (adapter_config.json and adapter_model.safetensors).']
    """
    from safetensors import SafetensorError, safe_open

    folder = user_path(folder)
    if not ((folder / CONFIG).is_file() and (folder / FACTORS).is_file()):
        return [f"It holds no LoRA adapter ({CONFIG} and {FACTORS})."]
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / FACTORS, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return [*_in_config(config), *_in_tensors(config, shapes)]
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise DataError(
            f"The adapter in {str(folder)!r} is broken ({type(error).__name__}: {error}). Write it anew."
        ) from error


def _in_config(config: Mapping[str, Any]) -> list[str]:
    found = []
    if config.get("peft_type", "LORA") != "LORA":
        found.append(f"It is {config['peft_type']}, not LoRA.")
    if config.get("use_dora"):
        found.append("It uses DoRA.")
    if config.get("modules_to_save"):
        found.append("It holds whole modules (modules_to_save).")
    if config.get("target_parameters"):
        found.append("It changes fused experts (target_parameters).")
    if config.get("bias", "none") != "none":
        found.append("It changes biases.")
    if config.get("fan_in_fan_out"):
        found.append("Its base model stores matrices transposed (GPT-2's Conv1D), for which there is no LoRA.")
    if config["r"] > SERVED_RANKS[-1]:
        found.append(f"Its rank is {config['r']}, and at most {SERVED_RANKS[-1]} is taken.")
    return found


def _in_tensors(config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> list[str]:
    found, modules = [], {name.rsplit(".lora_", 1)[0] for name in shapes}
    for module in sorted(modules):
        pair = [shapes.get(f"{module}.lora_{letter}.weight") for letter in "AB"]
        name = module.removeprefix(PREFIX)
        if not module.startswith(PREFIX) or None in pair:
            found.append(f"{name} is not a pair of LoRA factors by PEFT's names.")
            continue
        rank = min(pair[0][0], pair[1][1])  # type: ignore[index]  # of two shapes
        if rank > config["r"]:
            found.append(f"{name} has rank {rank}, more than the {config['r']} of all modules.")
        if not math.isclose(_scaling(config, name), _scaling(config, None)):
            found.append(f"{name} has a scaling of its own (alpha_pattern, rank_pattern), which is not read.")
    return found


def _scaling(config: Mapping[str, Any], name: str | None) -> float:
    """What the product of a module's factors is multiplied by; without a name, where no pattern is read."""
    alpha, rank = (
        next(
            (value for key, value in (config.get(pattern) or {}).items() if name and _matches(name, key)), config[field]
        )
        for pattern, field in (("alpha_pattern", "lora_alpha"), ("rank_pattern", "r"))
    )
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _matches(name: str, key: str) -> bool:
    return name == key or name.endswith(f".{key}")
