"""Rows whose beginnings are run once and whose ends are run again and again.

An edit at the subject's last token changes nothing to the left of it, and nothing below its layer. So the tokens before it go
through the model once, into a key-value cache, and so do the blocks below; every later pass runs the few tokens from there
on through the blocks from there on.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.models.answers import AnswerReading, read_answers
from lga_lightning.models.architecture import blocks
from lga_lightning.models.encoding import EncodedAnswers
from lga_lightning.models.hooks import logits_at
from lga_lightning.models.kv_cache import cache_of, check_behind_padding, copy_of_cache, keeps_states, pad_left
from lga_lightning.models.partial_passes import BlockInput, ends_after, entered_at, share_keys
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CachedSuffix:
    """A batch split at each row's subject: token 0 of what is left is the subject's last token in every row.

    Args:
        model: A causal language model; its cache must be transformers' dynamic one.
        batch: N rows with subjects, on the model's device.
        layer: The first block in which passes differ from each other; what is below runs in the first pass only.

    Attributes:
        batch: [N, S] the rows from the subject's last token to the last position; positions and subject count from there.

    Raises:
        ModelError: If the model keeps no such cache, or cannot look past padding.
    """

    def __init__(self, model: PreTrainedModel, batch: EncodedAnswers, layer: int = 0) -> None:
        self.model = model
        self.layer = layer
        self._block_input = BlockInput()
        starts, device = batch.subject, batch.input_ids.device
        # the beginning is padded on the left, so that distances in the cache are those of the text
        beginnings = zip(batch.input_ids, starts.tolist(), strict=True)
        prefix = pad_left([row[:start] for row, start in beginnings], device)
        self._cache: Any = None
        if prefix.input_ids.shape[1]:
            last = torch.full_like(starts, prefix.input_ids.shape[1] - 1).unsqueeze(1)
            with torch.no_grad(), logits_at(model, last):
                output = model(**vars(prefix), use_cache=True)
            self._cache = cache_of(model, output)
            check_behind_padding(model, prefix.attention_mask, output.logits)
        length = self._length(batch.positions - starts.unsqueeze(1))
        rest = torch.arange(length, device=device) + starts.unsqueeze(1)
        rest = rest.clamp_max(batch.input_ids.shape[1] - 1)
        self.batch = replace(
            batch,
            input_ids=batch.input_ids.gather(1, rest),
            positions=(batch.positions - starts.unsqueeze(1)).clamp_min(0),
            subject=torch.zeros_like(starts),
        )
        self._inputs: dict[str, Tensor] = {
            "attention_mask": torch.cat([prefix.attention_mask, torch.ones_like(self.batch.input_ids)], 1),
            "position_ids": rest,
        }

    def select(self, rows: Tensor) -> CachedSuffix:
        """Some of the rows, without what is to the right of their last position.

        Args:
            rows: [M] indices, on any device.
        """
        chosen = self._select(rows)
        batch, hidden = chosen.batch, chosen._block_input.hidden
        too_long = batch.input_ids.shape[1] - self._length(batch.positions)
        if too_long > 0:
            chosen.batch = replace(batch, input_ids=batch.input_ids[:, :-too_long])
            chosen._inputs = {name: tensor[:, :-too_long] for name, tensor in chosen._inputs.items()}
            if hidden is not None:
                chosen._block_input = replace(chosen._block_input, hidden=hidden[:, :-too_long])
        return chosen

    def run_below(self, rows: int) -> None:
        """Run the blocks below the layer now, for all rows, so that no selection of them needs to.

        Args:
            rows: Number of rows of a pass.
        """
        if not self.layer or self._block_input.hidden is not None or share_keys(blocks(self.model)):
            return
        found = []
        for some in torch.arange(len(self.batch), device=self.batch.input_ids.device).split(rows):
            part = self._select(some)
            found.append(part._block_input)
            with torch.no_grad(), part._entered(), ends_after(self.model, blocks(self.model)[self.layer]):
                part._run()
        hidden = [entry.hidden for entry in found if entry.hidden is not None]
        self._block_input = replace(found[0], hidden=torch.cat(hidden))

    def read(self) -> AnswerReading:
        """What the model makes of the answers."""
        return read_answers(self.model, self.batch, self.logits)

    def logits(self, positions: Tensor | None = None) -> Tensor:
        """Logits in float32 or better.

        Args:
            positions: Positions [N, P] in the batch; those of the answers by default, P = A.

        Returns:
            [N, P, V].
        """
        with logits_at(self.model, self.batch.positions if positions is None else positions), self._entered():
            logits: Tensor = self._run().logits
        return at_least_float32(logits)

    def _length(self, positions: Tensor) -> int:
        """Number of tokens up to the last of some positions: what is to the right of it changes nothing."""
        least = 2 if keeps_states(self._cache) else 1  # a single token's step of a state space has no backward pass
        return max(int(positions.max()) + 1, least)

    def _select(self, rows: Tensor) -> CachedSuffix:
        chosen = copy.copy(self)
        b, hidden = self.batch, self._block_input.hidden
        rows = rows.to(b.input_ids.device)
        chosen.batch = EncodedAnswers(b.input_ids[rows], b.positions[rows], b.labels[rows], b.subject[rows])
        chosen._inputs = {name: tensor[rows] for name, tensor in self._inputs.items()}
        kept = None if hidden is None else hidden[rows.to(hidden.device)]
        chosen._block_input = replace(self._block_input, hidden=kept)
        chosen._cache = copy_of_cache(self._cache, rows)
        return chosen

    def _entered(self) -> AbstractContextManager[None]:
        return entered_at(blocks(self.model), self.layer, self._block_input)

    def _run(self) -> Any:
        return self.model(
            input_ids=self.batch.input_ids,
            past_key_values=copy_of_cache(self._cache),
            use_cache=self._cache is not None,
            **self._inputs,
        )
