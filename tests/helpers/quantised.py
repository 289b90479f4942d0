"""Tiny quantised models, and plain models that compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lga_lightning.models.loading import load_model
from lga_lightning.models.packed import packed_modules, unpacked
from tests.helpers.models import tiny_model, tiny_tokenizer

PACKAGES = {"int8": "torchao", "int4": "torchao", "nf4": "bitsandbytes"}
SIZES = {"hidden_size": 32, "intermediate_size": 64}  # whole groups of 32


class Int8Linear(nn.Linear):
    """A linear map that nobody knows, whose weight is int8 with a scale a row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.bias = linear.bias
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        del self.weight
        self.weight = nn.Parameter((linear.weight / scale).round().to(torch.int8), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.weight.to(inputs.dtype) * self.scale, self.bias)


def saved_model(folder: Path, seed: int = 0) -> Path:
    """A folder with a tiny llama that can be quantised."""
    tiny_model("llama", seed=seed, **SIZES).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def quantised(folder: Path, kind: str) -> PreTrainedModel:
    """The model of a folder in 8 or 4 bits; the test is skipped where that package is missing."""
    pytest.importorskip(PACKAGES[kind])
    return load_model(str(folder), quantization=kind)[0]


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A model in float32 with the weights that a quantised one stands for."""
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(type(model.config)(**SIZES | model.config.to_diff_dict()))
    plain.to_empty(device="cpu")
    named = {module: name for name, module in model.named_modules()}
    weights = {name: tensor for name, tensor in model.state_dict().items() if name in plain.state_dict()}
    weights |= {f"{named[module]}.weight": unpacked(module) for module in packed_modules(model)}
    plain.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():
        plain.get_submodule(name.rpartition(".")[0])._buffers[name.rpartition(".")[2]] = buffer.clone()
    assert not packed_modules(plain)
    assert isinstance(plain, nn.Module)
    return plain.requires_grad_(False).eval()
