"""What an edit will be, to first order: known from one forward and one backward pass, before any search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from lga_lightning.models.sites import EditSite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LinearisedFacts:
    """The new answers of B requests at one block, as a forward and a backward pass show them.

    Attributes:
        site: The matrix that would be edited.
        inputs: Its inputs a, [B, T, d_in].
        gradients: Gradients b of each new answer's NLL with respect to its outputs, [B, T, d_out].
        stream: The block's output at the subject's last token, [B, d].
        stream_gradients: The gradients with respect to that, [B, d].
        subject: Position of the subject's last token, [B].
        answer: Positions that predict the new answer's tokens, [B, A], -1 on padding.
        nll: NLL of the new answers before the edit, [B].
        gates: What the site's gate gives at the subject's last token, [B, 1]; None of a site without one.
        outputs: What goes into the norm behind the site there, [B, d_out]; None of a site without one.
    """

    site: EditSite
    inputs: Tensor
    gradients: Tensor
    stream: Tensor
    stream_gradients: Tensor
    subject: Tensor
    answer: Tensor
    nll: Tensor
    gates: Tensor | None = None
    outputs: Tensor | None = None
    _found: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What a method works out of these facts and asks for again: it is found the first time, and is gone with them.

        Args:
            name: What it is called.
            find: How it is found.
        """
        if name not in self._found:
            self._found[name] = find()
        return self._found[name]

    @property
    def keys(self) -> Tensor:
        """The inputs at the subject's last token, [B, d_in]."""
        return self._at_subject(self.inputs)

    @property
    def values(self) -> Tensor:
        """The outputs v = W k + b there, [B, d_out]."""
        return self.site.values(self.keys)

    @property
    def value_gradients(self) -> Tensor:
        """The gradients with respect to these, [B, d_out]."""
        return self._at_subject(self.gradients)

    def at_answer(self, tensor: Tensor) -> list[Tensor]:
        """Inputs or gradients at the positions that predict each new answer's tokens.

        Args:
            tensor: [B, T, d].

        Returns:
            B tensors, [A_b, d].
        """
        return [row[places[places >= 0]] for row, places in zip(tensor, self.answer.to(tensor.device), strict=True)]

    def _at_subject(self, tensor: Tensor) -> Tensor:
        return tensor[torch.arange(len(tensor), device=tensor.device), self.subject.to(tensor.device)]


class Forecastable:
    """What a forecast asks of an editing method: which update it is expected to write, and over how many blocks.

    Attributes:
        window: Number of layers that an edit is spread over, where ``golden`` stands for several.
    """

    window: int = 1

    def window_at(self, layer: int) -> list[int]:
        """The blocks that a layer stands for: the window that ends there, shorter at the bottom of the model.

        Args:
            layer: Index of a block.
        """
        return window_ending_at(layer, self.window)

    def prepare_forecast(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]
    ) -> None:
        """Have at hand what :meth:`expected_directions` needs; see :meth:`prepare`."""

    def expected_change(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """What the method is expected to add to the outputs of the matrix, to first order: vectors p of dW = sum_r p_r q_r^T.

        By default one vector, as long as the value at the subject's last token, down the gradient of the new answer's NLL.

        Args:
            model: A causal language model.
            facts: B requests at the last of the blocks that would be edited.

        Returns:
            [B, R, d_out].
        """
        size = facts.values.norm(dim=-1, keepdim=True)
        return -(size * functional.normalize(facts.value_gradients, dim=-1)).unsqueeze(1)

    def expected_directions(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """Which inputs of the matrix the edit answers to, to first order: vectors q of dW = sum_r p_r q_r^T.

        By default k / |k|^2, k the key at the subject's last token: the least change of the weights that moves its value.

        Args:
            model: A causal language model.
            facts: B requests at one of the blocks that would be edited.

        Returns:
            [B, R, d_in].
        """
        keys = facts.keys
        return (keys / keys.square().sum(-1, keepdim=True)).unsqueeze(1)

    def expected_share(self, model: PreTrainedModel, facts: LinearisedFacts, changes: Tensor, left: int) -> Tensor:
        """What of the expected change one of the blocks of a window writes, as a change of its matrix's outputs.

        Args:
            model: A causal language model.
            facts: B requests at that block.
            changes: What :meth:`expected_change` gave at the last block of the window, [B, R, d].
            left: Number of blocks that are left, this one included.

        Returns:
            [B, R, d_out]; by default the change divided by the number of blocks.
        """
        return changes / self.window


def window_ending_at(layer: int, size: int) -> list[int]:
    """The blocks of the window that ends at a layer, fewer at the bottom of the model.

    Args:
        layer: Index of the last block.
        size: Number of blocks, at most.

    Example:
        >>> window_ending_at(6, 3), window_ending_at(1, 3)
        ([4, 5, 6], [0, 1])
    """
    return list(range(max(0, layer - size + 1), layer + 1))
