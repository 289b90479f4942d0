"""K-FAC (arXiv 1503.05671): the curvature of a text's loss in a matrix, as two small moments instead of one of all its entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric

from lga_lightning.exceptions import DataError
from lga_lightning.models.answers import read_answers
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.encoding import IGNORE, EncodedAnswers, pad_right
from lga_lightning.models.hooks import OutputGradients, frozen, per_row
from lga_lightning.models.likelihood import input_device
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Curvature:
    """How the loss of some text bends in a matrix W [d_out, d_in]: by tr(dW^T B dW A) / 2 a token for a change dW.

    Attributes:
        keys: A = E[k k^T] of the matrix's inputs, [d_in, d_in] in float64.
        gradients: B = E[g g^T] of the gradients of the text's NLL with respect to its outputs, [d_out, d_out] in float64.
        tokens: Number of tokens that both are means over.
    """

    keys: Tensor
    gradients: Tensor
    tokens: int

    def as_kept(self) -> Curvature:
        """On the CPU, and in the precision that files have."""
        return Curvature(self.keys.float().double().cpu(), self.gradients.float().double().cpu(), self.tokens)

    def __add__(self, other: Curvature) -> Curvature:
        """Of both texts together."""
        tokens = self.tokens + other.tokens
        mine, theirs = self.tokens / tokens, other.tokens / tokens
        return Curvature(
            mine * self.keys + theirs * other.keys.to(self.keys),
            mine * self.gradients + theirs * other.gradients.to(self.gradients),
            tokens,
        )


class CurvatureAccumulator(Metric):
    """Sums of k k^T and g g^T by layer, and the number of tokens; the same on one process and on several.

    A token counts where it predicts one that is scored. No gradient of a weight is ever materialised.

    Args:
        model: A causal language model, for the widths of the matrices.
        layers: Indices of the blocks, whose out-projections are meant.
    """

    full_state_update = False
    tokens: Tensor

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = sorted(layers)
        for layer in self.layers:
            site = edit_site(model, layer)
            for name, width in (("keys", site.in_features), ("gradients", site.out_features)):
                zeros = torch.zeros(width, width, dtype=torch.float64)
                self.add_state(f"{name}_{layer}", zeros, dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, model: PreTrainedModel, batch: EncodedAnswers) -> None:  # type: ignore[override]
        """Run a batch forward and backward.

        Args:
            model: The model.
            batch: N rows; each has a label at least.
        """
        batch = batch.to(input_device(model))
        scored = batch.labels != IGNORE
        counted = torch.zeros_like(batch.input_ids, dtype=torch.bool)
        counted[scored.nonzero()[:, 0], batch.positions[scored]] = True

        def receive(layer: int, inputs: Tensor, gradients: Tensor) -> None:
            for name, rows in (("keys", inputs), ("gradients", gradients)):
                seen = at_least_float32(per_row(rows, len(batch)).detach())[counted.to(rows.device)]
                total = getattr(self, f"{name}_{layer}")
                total += (seen.T @ seen).to(total)

        watcher = OutputGradients(receive)
        sites = [edit_site(model, layer) for layer in self.layers]
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            frozen(model),
            watcher.watch([(site.layer, site.module) for site in sites]),
        ):
            nll = read_answers(model, batch).nll
            watcher.backward((nll * scored.sum(1).to(nll)).sum())
        self.tokens += int(scored.sum())

    def compute(self) -> dict[int, dict[str, Tensor]]:
        """The fields ``keys`` and ``gradients`` of :class:`Curvature` by layer, over all processes."""
        return self._means()

    def curvatures(self) -> dict[int, Curvature]:
        """The curvature by layer, of the sums that are here.

        Raises:
            DataError: If no token was counted.
        """
        if not self.tokens:
            raise DataError("There is no token whose loss bends: the text is empty. Give text of two tokens at least.")
        return {layer: Curvature(**means, tokens=int(self.tokens)) for layer, means in self._means().items()}

    def _means(self) -> dict[int, dict[str, Tensor]]:
        return {
            layer: {name: getattr(self, f"{name}_{layer}") / self.tokens for name in ("keys", "gradients")}
            for layer in self.layers
        }


def curvature_of(
    model: PreTrainedModel, layers: Sequence[int], batches: Iterable[EncodedAnswers]
) -> dict[int, Curvature]:
    """The curvature of the loss of some rows, by layer.

    Args:
        model: A causal language model; it is not changed.
        layers: Indices of the blocks.
        batches: The rows; each has a label at least.
    """
    with torch.inference_mode(False):  # what batches are made of is saved for the way back
        found = CurvatureAccumulator(model, layers).to(input_device(model))
        for batch in batches:
            found.update(model, batch)
        return found.curvatures()


def encode_pieces(pieces: Sequence[Sequence[int]]) -> EncodedAnswers:
    """Pieces of plain text, every token of which but the first is scored.

    Args:
        pieces: Token ids of N texts, two at least of each.
    """
    return EncodedAnswers(
        input_ids=pad_right(pieces, 0),
        positions=pad_right([range(len(piece) - 1) for piece in pieces], 0),
        labels=pad_right([piece[1:] for piece in pieces], IGNORE),
        subject=torch.full((len(pieces),), -1),
    )
