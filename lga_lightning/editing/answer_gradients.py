"""What one forward and one backward pass tell about new answers at the matrices that would be edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.editing.targets import EditTargets
from lga_lightning.models.answers import read_answers
from lga_lightning.models.encoding import IGNORE, encode_answers
from lga_lightning.models.hooks import OutputGradients, frozen, per_row
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.pieces import MOST_TOKENS
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest


@dataclass(frozen=True, eq=False)
class AnswerRows:
    """One matrix at the A positions that predict the tokens of an answer, or of several.

    Attributes:
        keys: Its inputs, [A, d_in].
        gradients: Gradients of the answer's NLL, summed over its tokens, with respect to its outputs, [A, d_out].
    """

    keys: Tensor
    gradients: Tensor


@dataclass
class AnswerGradients(EditTargets):
    """Keys and gradients of N requests.

    Attributes:
        rows: For each request, its rows by the name of the matrix.
    """

    rows: list[dict[str, AnswerRows]]

    @classmethod
    def join(cls, parts: Sequence[AnswerGradients]) -> AnswerGradients:
        """Several of them as one."""
        requests = list(chain.from_iterable(part.requests for part in parts))
        return cls(requests, list(chain.from_iterable(part.rows for part in parts)))

    def at(self, name: str) -> AnswerRows:
        """The rows of all requests at one matrix, in order.

        Args:
            name: Qualified name of the matrix.
        """
        found = [rows[name] for rows in self.rows]
        return AnswerRows(torch.cat([one.keys for one in found]), torch.cat([one.gradients for one in found]))


def answer_gradients(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    sites: Sequence[EditSite],
) -> AnswerGradients:
    """Keys and gradients at all of some matrices, from one forward and one backward pass over all requests.

    Long texts among short ones, and more than ``MOST_TOKENS``, have passes of their own.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        requests: N requests; their subjects are not needed.
        sites: The matrices.
    """
    found: list[dict[str, AnswerRows]] = [{} for _ in requests]
    texts = [(request.prompt, request.target_new) for request in requests]
    for rows in pieces(encode_answers(tokenizer, *zip(*texts, strict=True)).positions.amax(1).tolist()):
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):
            batch = encode_answers(tokenizer, *zip(*(texts[row] for row in rows), strict=True)).to(input_device(model))
            lengths = (batch.labels != IGNORE).sum(1)
            receive = partial(_receive, [found[row] for row in rows], batch.positions, lengths.tolist())
            watcher = OutputGradients(receive)
            with watcher.watch((site.name, site.module) for site in sites):
                nll = read_answers(model, batch).nll
                watcher.backward((nll * lengths.to(nll)).sum())
    return AnswerGradients(list(requests), found)


def pieces(lengths: Sequence[int]) -> list[list[int]]:
    """Texts that are read together: of similar length, so that padding is at most half of a piece, and no more than ``MOST_TOKENS`` in one.

    Args:
        lengths: Lengths of texts, in tokens.

    Returns:
        Positions of texts, piece by piece, the shortest first.

    Example:
        >>> pieces([9, 300, 11, 10])
        [[0, 3, 2], [1]]
    """
    found: list[list[int]] = []
    tokens = 0  # of the last piece, without its padding
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        tokens += lengths[row]
        if not found or (len(found[-1]) + 1) * lengths[row] > min(MOST_TOKENS, 2 * tokens):
            found.append([])
            tokens = lengths[row]
        found[-1].append(row)
    return found


def _receive(
    found: list[dict[str, AnswerRows]],
    positions: Tensor,
    counts: list[int],
    name: str,
    inputs: Tensor,
    gradients: Tensor,
) -> None:
    keys, slopes = (_at(part, positions) for part in (inputs, gradients))
    for rows, count, key, slope in zip(found, counts, keys, slopes, strict=True):
        rows[name] = AnswerRows(key[:count].clone(), slope[:count].clone())  # not views that keep the padding alive


def _at(tensor: Tensor, positions: Tensor) -> Tensor:
    """A module's input or output gradient at positions [N, A] of N rows: [N, A, d] in float32 or better."""
    rows = per_row(tensor, len(positions))
    index = positions.to(rows.device).unsqueeze(-1).expand(-1, -1, rows.shape[-1])
    return at_least_float32(rows.gather(1, index))
