"""The experts of a block, which transformers fuses into parameters of three dimensions, as linear maps that hooks can watch.

A token t that is routed to some experts with weights w_e gets, from a mixture of experts,

    y_t = sum_e w_e (W_e k_te + b_e)

so the out-projections W_e, side by side, are one matrix [W_1 ... W_E] with the key (w_1 k_t1, ..., w_E k_tE), which is zero for all experts that
t is not routed to. All that is known of a dense MLP's out-projection holds for it: keys and gradients of an expert are those of the tokens
that it sees, and an edit reaches the experts that the subject's last token is routed to, by their weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from lga_lightning.exceptions import ModelError
from lga_lightning.models.storage import whole

DOWN = "down_proj"


def is_fused(module: object) -> bool:
    """Whether a module is a block's experts with fused out-projections, of transformers' common interface for experts."""
    parameter = getattr(module, DOWN, None)
    return isinstance(parameter, nn.Parameter) and parameter.ndim == 3 and hasattr(module, "is_transposed")


class ExpertMatrix(nn.Module):
    """The out-projections of fused experts as a module: all side by side, or one expert's.

    It is no part of the model, whose modules stay as they are. While it has a hook, it is called with the keys of all tokens whenever the
    experts run, and what its hooks change in its output is added to theirs.

    Args:
        experts: The fused experts, E of them.
        number: Which expert; None for all, side by side.

    Attributes:
        count: Number of experts, E.
        in_features: Width of a key: d_in of an expert, or E d_in.
        out_features: d_out.

    Raises:
        ModelError: If the experts normalise what each gives.
    """

    def __init__(self, experts: nn.Module, number: int | None = None) -> None:
        super().__init__()
        if getattr(experts, "has_post_expert_norm", False):
            raise ModelError(
                f"{type(experts).__name__} normalises what each of its experts gives, so that an expert's out-projection does not write into "
                "the residual stream. Such experts are neither scored nor edited."
            )
        self._experts: tuple[Any] = (experts,)  # in a tuple, lest they become a part of this module
        self.number = number
        self.count, *shape = experts.get_parameter(DOWN).shape
        self.out_features, width = reversed(shape) if experts.is_transposed else shape
        self.in_features = width if number is not None else self.count * width
        self._watchers = 0
        self._companion: RemovableHandle | None = None

    @property
    def experts(self) -> Any:
        """The fused experts, a module of the model."""
        return self._experts[0]

    def get_parameter(self, target: str) -> Tensor:  # type: ignore[override]
        """The weight [d_out, d_in]: a view of one expert's, so that writing to it writes to the model; of all experts a copy."""
        if target != "weight":
            raise AttributeError(f"{type(self).__name__} has a weight alone, got {target!r}.")
        fused = self.experts.get_parameter(DOWN).detach()
        matrices = fused.mT if self.experts.is_transposed else fused
        return matrices.transpose(0, 1).flatten(1) if self.number is None else matrices[self.number]

    def forward(self, keys: Tensor) -> Tensor:
        """W k for keys [..., d_in]."""
        return functional.linear(keys, whole(self.get_parameter("weight")).to(keys.dtype))

    def register_forward_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:  # type: ignore[override]
        """As of any module; the handle leaves the experts as they were, too."""
        return _Handle(self, super().register_forward_hook(hook, **options))

    def register_forward_pre_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:  # type: ignore[override]
        """As of any module; the handle leaves the experts as they were, too."""
        return _Handle(self, super().register_forward_pre_hook(hook, **options))

    def keys(self, hidden: Tensor, routed: Tensor, weights: Tensor) -> Tensor:
        """The keys of tokens, with the router's weights in them; zero for experts that a token is not routed to.

        Args:
            hidden: [M, d] what goes into the experts.
            routed: [M, K] the experts that each token is routed to.
            weights: [M, K] their weights.

        Returns:
            [M, d_in].
        """
        wanted = range(self.count) if self.number is None else (self.number,)
        keys = hidden.new_zeros(len(hidden), len(wanted), self.in_features // len(wanted))
        for place, expert in enumerate(wanted):
            token, choice = torch.where(routed == expert)
            if len(token):
                inner = self._inner(expert, hidden[token]) * weights[token, choice].unsqueeze(1)
                keys[token, place] = inner.to(keys.dtype)
        return keys.flatten(1)

    def _inner(self, expert: int, hidden: Tensor) -> Tensor:
        """What an expert's out-projection is given, before the router's weight."""
        experts = self.experts
        name = "gate_up_proj" if experts.has_gate else "up_proj"
        weight = getattr(experts, name)[expert]
        bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
        up = functional.linear(hidden, weight.mT if experts.is_transposed else weight, bias)
        inner: Tensor = experts._apply_gate(up) if experts.has_gate else experts.act_fn(up)
        return inner

    def _join(self) -> None:
        self._watchers += 1
        if self._companion is None:
            self._companion = self.experts.register_forward_hook(self._add, with_kwargs=True)

    def _leave(self) -> None:
        self._watchers -= 1
        if not self._watchers and self._companion is not None:
            self._companion.remove()
            self._companion = None

    def _add(self, experts: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        hidden, routed, weights = (*args, *kwargs.values())[:3]
        keys = self.keys(hidden.flatten(0, -2), routed, weights)
        changed = self(keys) - self.forward(keys)  # nothing, and of no gradient, but for what hooks do
        return output + changed.view_as(output).to(output.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpertMatrix) and (self.experts, self.number) == (other.experts, other.number)

    def __hash__(self) -> int:
        return hash((id(self.experts), self.number))


class _Handle(RemovableHandle):
    """Removes a hook from a matrix of experts, and with the last one the matrix's own from the experts."""

    def __init__(self, matrix: ExpertMatrix, inner: RemovableHandle) -> None:
        self._matrix: ExpertMatrix | None = matrix
        self._inner = inner
        matrix._join()

    def remove(self) -> None:
        """Remove the hook; a second time does nothing."""
        self._inner.remove()
        if self._matrix is not None:
            self._matrix._leave()
            self._matrix = None
