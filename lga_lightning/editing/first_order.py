"""What an edit will be, to first order: known from one forward and one backward pass, before any search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lga_lightning.models.sites import EditSite


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
    """

    site: EditSite
    inputs: Tensor
    gradients: Tensor
    stream: Tensor
    stream_gradients: Tensor
    subject: Tensor
    answer: Tensor
    nll: Tensor

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
