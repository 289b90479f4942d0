"""Loading weights in few bits: which of transformers' quantisers a name stands for, and what becomes of checkpoints that come quantised."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from lga_lightning.exceptions import ModelError
from lga_lightning.models.packed import packed_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Quantization = Literal["int8", "int4", "nf4"]
GROUP = 32
"""Weights of a row that share a scale and a zero in int4."""


def quantization_options(source: str, quantization: str | None, compute: torch.dtype | None) -> dict[str, Any]:
    """What to tell ``from_pretrained`` of how it is to keep the weights of a checkpoint; nothing for as they are there.

    A checkpoint whose format transformers can read as plain weights (FP8, MXFP4) is read so: their kernels have no backward pass.

    Args:
        source: What transformers loads: a local folder, or a Hub id.
        quantization: ``int8``, ``int4`` or ``nf4``; None for none.
        compute: Dtype to compute in; None for the checkpoint's.

    Raises:
        ModelError: If there is no such quantisation, its package is missing, or the checkpoint is quantised already.
    """
    from transformers import PretrainedConfig
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if quantization not in (None, *get_args(Quantization)):
        raise ModelError(f"`quantization` must be one of {list(get_args(Quantization))} or None, got {quantization!r}.")
    present = PretrainedConfig.get_config_dict(source)[0].get("quantization_config")
    if present is None:
        return {} if quantization is None else {"quantization_config": _config(quantization, compute)}
    method = present.get("quant_method", "of a kind that it does not name")
    if quantization is not None:
        raise ModelError(
            f"The weights of {source!r} are quantised already ({method}), and `quantization` ({quantization!r}) is for plain ones. "
            "Leave it out: what comes quantised is loaded as it is."
        )
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    plain = kind is not None and "dequantize" in inspect.signature(kind).parameters
    return {"quantization_config": kind(dequantize=True)} if plain else {}


def check_quantised(model: PreTrainedModel, quantization: str) -> None:
    """Refuse a model of which nothing was quantised.

    Args:
        model: The model, loaded.
        quantization: How it was to be quantised.

    Raises:
        ModelError: If no linear map has a packed weight.
    """
    if not packed_modules(model):
        raise ModelError(
            f"Nothing of a {type(model).__name__} can be kept in {quantization}: it has no "
            "`nn.Linear` but its output embedding. Load it without `quantization`, in bfloat16 if memory is short."
        )


def not_quantised(name: str, quantization: str, error: Exception) -> ModelError:
    """What to say of a model that could not be loaded so.

    Args:
        name: Name of the model.
        quantization: How it was to be quantised.
        error: What transformers has raised.
    """
    reason = str(error).strip().splitlines()
    return ModelError(
        f"Could not load the model {name!r} in {quantization}. int4 takes matrices whose inputs are a multiple of {GROUP} wide, and nf4 may need a "
        "GPU; int8 takes all. Try that, or leave `quantization` out, to see whether the model loads at all. The loader said: "
        f"{reason[0] if reason else type(error).__name__}"
    )


def _config(quantization: str, compute: torch.dtype | None) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    try:
        if quantization == "nf4":
            import bitsandbytes  # noqa: F401

            return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, MappingType, PerGroup
    except ImportError as error:
        package = "bitsandbytes" if quantization == "nf4" else "torchao"
        raise ModelError(
            f"The quantisation {quantization!r} is done by {package}, which is not installed, or is too old. Install it with "
            "`pip install 'lga-lightning[quantization]'`. "
            f"The import said: {error}"
        ) from error
    if quantization == "int4":
        four_bits = torch.int4  # type: ignore[attr-defined]
        return TorchAoConfig(IntxWeightOnlyConfig(four_bits, PerGroup(GROUP), MappingType.ASYMMETRIC))
    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))  # which are settings of the whole process
