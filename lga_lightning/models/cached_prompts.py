"""Prompts that go through a model once: from their key-value cache, answers are scored and generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.models.answers import read_answers
from lga_lightning.models.architecture import longest_text
from lga_lightning.models.chat import end_tokens
from lga_lightning.models.encoding import IGNORE, EncodedAnswers, pad_right, prompt_ids
from lga_lightning.models.hooks import logits_at
from lga_lightning.models.kv_cache import cache_of, check_behind_padding, copy_of_cache, pad_left
from lga_lightning.models.likelihood import input_device, mean_nll, token_nll
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Attach = Callable[[Tensor], AbstractContextManager[None]]
"""Given rows of the prompts, a context within which a batch of just these rows runs edited."""

MOST_LOGITS = 1 << 26  # logits at a time: 256 MB in float32


def unedited(rows: Tensor) -> AbstractContextManager[None]:
    """An :data:`Attach` that attaches nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Continuation:
    """What a model says behind a prompt.

    Attributes:
        tokens: Its new tokens, without an end-of-text token.
        text: The same as text.
        ended: Whether it came to an end of its own, and was not cut at a limit.
    """

    tokens: list[int]
    text: str
    ended: bool


class CachedPrompts:
    """A batch of prompts in a model's key-value cache.

    The prompts are padded on the left, so that all of them end at the same place; their positions are those of the text.

    Args:
        model: A causal language model in eval mode; its cache must be transformers' dynamic one.
        tokenizer: Its tokenizer; the default special tokens go before the prompt.
        texts: N prompts; white space at their end is dropped, since an answer brings its own.
        attach: Gives the context in which rows run edited.

    Raises:
        ModelError: If the model keeps no such cache, or cannot look past padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        attach: Attach = unedited,
    ) -> None:
        self.model, self.tokenizer, self.attach = model, tokenizer, attach
        padded = pad_left(prompt_ids(tokenizer, [text.rstrip() for text in texts]), input_device(model))
        self._mask = padded.attention_mask
        self._lengths = self._mask.sum(1)
        self._cache: Any = None
        last = torch.full_like(self._lengths, self._mask.shape[1] - 1).unsqueeze(1)
        with logits_at(model, last):
            rows = torch.arange(len(texts))
            self._logits = self._run(rows, padded.input_ids, self._mask, padded.position_ids)  # [N, 1, V]
        check_behind_padding(model, self._mask, self._logits)

    def __len__(self) -> int:
        return len(self._lengths)

    def predictions(self, rows: Sequence[int], answers: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Read answers behind prompts: what the model would have said at each of their tokens.

        Args:
            rows: M indices of prompts; a prompt may occur several times.
            answers: M answers as token ids.

        Returns:
            Most likely tokens [M, A] and the answers' tokens [M, A], both with ``IGNORE`` on padding, and the answers' mean
            negative log-likelihood [M] in nats a token; on the CPU.
        """
        labels = pad_right(answers, IGNORE)
        tokens, nll = torch.full_like(labels, IGNORE), torch.zeros(len(labels), dtype=torch.float64)
        lengths = (labels != IGNORE).sum(1)
        step = max(1, MOST_LOGITS // (self._logits.shape[-1] * labels.shape[1]))
        # answers of a single token go by themselves: they need no further pass
        for same in ((lengths == 1).nonzero().flatten(), (lengths > 1).nonzero().flatten()):
            for part in same.split(step) if len(same) else ():
                read = labels[part, : int(lengths[part].max())]
                said, each = self._read(torch.tensor(rows)[part], read)
                tokens[part, : read.shape[1]] = said.cpu().where(read != IGNORE, IGNORE)
                nll[part] = mean_nll(each, read).double().cpu()
        return tokens, labels, nll

    def continuations(self, limit: int | Sequence[int], finished: Callable[[int, str], bool]) -> list[str]:
        """Let the model continue every prompt greedily; a row that is finished leaves the batch.

        Args:
            limit: Most new tokens of a row; one number for all rows, or N.
            finished: Called with a row and the text of its newest token; says whether the row ends there.

        Returns:
            N texts, up to and with the token that finished them. An end-of-text token, or the end of the model's
            positions, finishes any row.
        """
        return [continuation.text for continuation in self._continue(limit, finished)]

    def to_their_ends(self, limit: int | Sequence[int]) -> list[Continuation]:
        """Let the model continue every prompt greedily until it says an end-of-text token, or its template's end of a turn.

        Args:
            limit: Most new tokens of a row, where one comes to no end; one number for all rows, or N.

        Returns:
            N continuations; a row that has ended leaves the batch.
        """
        return self._continue(limit, lambda row, text: False)

    def _continue(self, limit: int | Sequence[int], finished: Callable[[int, str], bool]) -> list[Continuation]:
        """As :meth:`continuations`, with the tokens and how each came to its end."""
        limits = [limit] * len(self) if isinstance(limit, int) else limit
        ended = [False] * len(self)
        said: list[list[int]] = [[] for _ in range(len(self))]
        pieces: dict[int, str] = {}
        lengths = self._lengths.tolist()
        ends, most = end_tokens(self.model, self.tokenizer), longest_text(self.model, max(lengths) + max(limits))
        live, mask, cache = torch.arange(len(self)), self._mask, copy_of_cache(self._cache)
        tokens = self._logits[:, -1].argmax(-1)
        while True:
            keep = []
            for place, (row, token) in enumerate(zip(live.tolist(), tokens.tolist(), strict=True)):
                if token in ends:
                    ended[row] = True
                    continue
                said[row].append(token)
                if token not in pieces:
                    pieces[token] = self.tokenizer.decode([token])
                count = len(said[row])
                if not finished(row, pieces[token]) and count < limits[row] and lengths[row] + count < most:
                    keep.append(place)
            if not keep:
                texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
                return [Continuation(*row) for row in zip(said, texts, ended, strict=True)]
            if len(keep) < len(live):
                chosen = torch.tensor(keep)
                live, mask, tokens = live[chosen], mask[chosen], tokens[chosen]
                cache.reorder_cache(chosen)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], 1)
            positions = torch.tensor([[lengths[row] + len(said[row]) - 1] for row in live.tolist()], device=mask.device)
            tokens = self._run(live, tokens.unsqueeze(1).to(mask.device), mask, positions, cache)[:, -1].argmax(-1)

    def _read(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What answers [M, A] are read as: the most likely tokens, and the negative log-likelihoods of theirs, both [M, A]."""
        first = at_least_float32(self._logits[rows])
        predicted, nll = first.argmax(-1), token_nll(first, labels[:, :1])
        if labels.shape[1] == 1:
            return predicted, nll
        ids = labels[:, :-1].clamp_min(0).to(self._mask.device)
        mask = torch.cat([self._mask[rows], torch.ones_like(ids)], 1)
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        positions = self._lengths[rows].unsqueeze(1) + places

        def logits(at: Tensor) -> Tensor:
            with logits_at(self.model, at):
                return at_least_float32(self._run(rows, ids, mask, positions, copy_of_cache(self._cache, rows)))

        batch = EncodedAnswers(ids, places, labels[:, 1:].to(ids.device), torch.full_like(rows, -1))
        with torch.no_grad():
            later = read_answers(self.model, batch, logits)
        return torch.cat([predicted, later.predicted], 1), torch.cat([nll, later.token_nll], 1)

    def _run(self, rows: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any = None) -> Tensor:
        with torch.no_grad(), self.attach(rows):
            output = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        if cache is None:
            self._cache = cache_of(self.model, output)
        logits: Tensor = output.logits
        return logits
