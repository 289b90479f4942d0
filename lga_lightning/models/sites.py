"""The places in a model that are scored and edited: a module of a block, and the out-projection of its MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lga_lightning.exceptions import ModelError
from lga_lightning.models.experts import DOWN, ExpertMatrix
from lga_lightning.models.packed import is_packed, packing, read_weight
from lga_lightning.models.storage import device_of, gathered, is_shard, whole_parameter


@dataclass(frozen=True)
class Site:
    """A module of a block whose parameters are scored.

    Attributes:
        name: Qualified name in the model.
        module: The module itself.
        bias: Whether its bias is scored as well as its weight.
    """

    name: str
    module: nn.Module
    bias: bool


@dataclass(frozen=True)
class EditSite:
    """The out-projection of a block's MLP: y = W k + b, where an edit writes W <- W + B A.

    Attributes:
        name: Qualified name in the model.
        module: The linear module.
        layer: Index of its block.
        transposed: Whether the module stores W as [d_in, d_out] (GPT-2's ``Conv1D``) and not as [d_out, d_in].
        in_features: d_in, the width of a key.
        out_features: d_out, the width of a value.
        norm: The norm between the module and the residual stream (Gemma 2 and 3, OLMo 2), None in most families.
        scale: What the output is multiplied by on its way into the residual stream (Granite), 1 in most families.
        gate: The linear map to one number a token, whose sigmoid the output is multiplied by as well (Qwen's shared experts), None in most
            families.
        normed_twice: Whether what it gives is normalised by itself, and then once more together with what experts give (Gemma 4 with
            experts); ``norm`` is then the second.
    """

    name: str
    module: nn.Module
    layer: int
    transposed: bool
    in_features: int
    out_features: int
    norm: nn.Module | None = None
    scale: float = 1.0
    gate: nn.Module | None = None
    normed_twice: bool = False

    def share(self, gates: Tensor | None) -> Tensor | float:
        """What the module's outputs are multiplied by on their way into the residual stream, but for the norm.

        Args:
            gates: [..., 1] what the gate gives for the same tokens; None of a module without one.
        """
        return self.scale if gates is None else self.scale * gates.sigmoid()

    def check_one_norm(self) -> None:
        """Refuse a module whose way into the residual stream is through two norms.

        Raises:
            ModelError: Says so.
        """
        if self.normed_twice:
            raise ModelError(
                f"What {self.name} gives is normalised twice on its way into the residual stream, by itself and together with what experts give, "
                "and forecasts, as edits that aim at the stream, know one norm. Use a method that aims at the matrix's own output (RROME, ROME, "
                "PMET, FTL, FTM), and a locator that makes no forecast (LayerSweep, LGA), or a model of the family without experts."
            )

    def before_norm(self, outputs: Tensor, change: Tensor, gates: Tensor | None = None) -> Tensor:
        """What to change in the module's outputs so that the residual stream changes by so much.

        With an RMS norm behind the module this holds to first order: the output's size, by which it divides, is taken as
        it is.

        Args:
            outputs: [..., d_out] the module's outputs; where a norm stands behind it, what goes into that.
            change: [..., d_out] the wanted change of the block's output.
            gates: [..., 1] what the gate gives for the same tokens; None of a module without one.

        Raises:
            ModelError: If the norm takes off the mean as well (``LayerNorm``): a change along it would be lost. If there are two.
        """
        self.check_one_norm()
        change = change.to(outputs.device) / self.share(gates)
        if self.norm is None:
            return change
        if isinstance(self.norm, nn.LayerNorm):
            raise ModelError(
                f"A LayerNorm stands between {self.name} and the residual stream, and edits that aim at the residual stream know "
                "RMS norms alone. Use a method that aims at the matrix's own output (RROME, ROME, PMET, FTL, FTM)."
            )
        with gathered(self.norm):
            scale = self.norm(torch.ones_like(outputs)).to(outputs)
        scale = scale / outputs.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
        return change * scale / (scale.square() + 1e-6 * scale.square().mean(-1, keepdim=True))

    def values(self, keys: Tensor) -> Tensor:
        """W k + b for keys [..., d_in], in the keys' dtype, which may be wider than the weights'."""
        has_bias = getattr(self.module, "bias", None) is not None
        bias = whole_parameter(self.module, "bias").to(keys) if has_bias else None
        with torch.autocast(keys.device.type, enabled=False):
            return functional.linear(keys, self.whole_weight().to(keys), bias)

    @property
    def parts(self) -> list[str]:
        """Names of the experts' own out-projections, where the module is these side by side; else none."""
        if not isinstance(self.module, ExpertMatrix) or self.module.number is not None:
            return []
        return [f"{self.name}.{number}.{DOWN}" for number in range(self.module.count)]

    @property
    def weight(self) -> Tensor:
        """The weight as a [d_out, d_in] view: writing to it writes to the model. Where that cannot be, :meth:`whole_weight`.

        Of a model in shards it is this process's shard.
        """
        weight = self.module.get_parameter("weight") if self.is_writable else read_weight(self.module)
        return weight.T if self.transposed else weight

    def whole_weight(self) -> Tensor:
        """The weight [d_out, d_in] to be read alone, wherever and in whatever it is stored; of a model in shards a collective operation."""
        weight = read_weight(self.module)
        return weight.T if self.transposed else weight

    @property
    def is_writable(self) -> bool:
        """Whether edits can be written into the weight: not where it is packed, put aside until the module runs, or a shard of experts."""
        weight = self.module.get_parameter("weight")
        in_parts = isinstance(self.module, ExpertMatrix) and is_shard(weight)
        return not (is_packed(weight) or weight.is_meta or in_parts)

    @property
    def packing(self) -> str | None:
        """What the weight is packed in, in a word (``Int8Tensor``); None if it is not."""
        weight = self.module.get_parameter("weight")
        return packing(weight) if is_packed(weight) else None

    @property
    def device(self) -> torch.device:
        """The device on which the module runs."""
        return device_of(self.module)
