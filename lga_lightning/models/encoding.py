"""From texts to padded token batches: prompts with their answers, right-padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lga_lightning.exceptions import ModelError
from lga_lightning.models.chat import ChatTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100


@dataclass
class EncodedAnswers:
    """Rows of prompt + answer, right-padded, with the positions whose logits predict the answer.

    There is no attention mask: in a causal model nothing attends to what stands to its right, so padding on the right
    changes neither the answer's logits nor any gradient, and receives a gradient of exactly zero.

    Attributes:
        input_ids: [N, T] token ids.
        positions: [N, A] where the logits of the j-th answer token are read (0 on padding).
        labels: [N, A] the answer's tokens, ``IGNORE`` on padding.
        subject: [N] index of the subject's last token, -1 where no subject was given.
    """

    input_ids: Tensor
    positions: Tensor
    labels: Tensor
    subject: Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    def as_read(self) -> EncodedAnswers:
        """The same batch up to its last position: what stands to the right of it, an answer's last token, changes nothing there."""
        return replace(self, input_ids=self.input_ids[:, : int(self.positions.max()) + 1])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EncodedAnswers:
        """The same batch on a device."""
        return replace(
            self, **{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        )


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that does not say which characters its tokens cover.

    Args:
        tokenizer: The tokenizer.

    Raises:
        ModelError: Says so.
    """
    if not tokenizer.is_fast:
        name = f" of {tokenizer.name_or_path!r}" if tokenizer.name_or_path else ""
        raise ModelError(
            f"The tokenizer{name} ({type(tokenizer).__name__}) has no character offsets, which are needed to find the subject's last "
            "token. Convert it to a fast tokenizer (tokenizer.json), and load it from that folder."
        )


def target_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Token ids of an answer as it continues a text: exactly one leading space, no special tokens.

    Tokenizers that put a space in front by themselves (SentencePiece with a dummy prefix) get the answer without one. In a
    chat the template decides: an answer mostly begins its line.
    """
    if isinstance(tokenizer, ChatTokenizer) and not tokenizer.space:
        return tokenizer.answer_ids(answer.strip())
    first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])[0]
    space = "" if first.startswith(("▁", "Ġ")) else " "
    return list(tokenizer(space + answer.strip(), add_special_tokens=False)["input_ids"])


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    subject_ends: Sequence[int] | None = None,
    ending: Sequence[int] = (),
) -> EncodedAnswers:
    """Tokenise prompts and answers apart (so that no boundary is merged), join and right-pad them.

    Args:
        tokenizer: A fast tokenizer; its default special tokens go before the prompt.
        prompts: N prompts; white space at their end is dropped, since the answer brings its own.
        answers: N answers.
        subject_ends: N character offsets just past the subject in its prompt, or None.
        ending: Tokens that every answer ends with, as a part of it.

    Returns:
        The batch, on the CPU.

    Raises:
        ModelError: If the tokenizer is no fast one.
    """
    check_fast(tokenizer)
    prompts = [prompt.rstrip() for prompt in prompts]
    encoded = tokenizer(list(prompts), return_offsets_mapping=True)
    ids_of_prompts = [without_eos(tokenizer, ids) for ids in encoded["input_ids"]]
    answer_ids = [[*target_ids(tokenizer, answer), *ending] for answer in answers]
    rows = [p + a for p, a in zip(ids_of_prompts, answer_ids, strict=True)]
    last = [-1] * len(rows)
    if subject_ends is not None:
        last = [token_at(o, end - 1) for o, end in zip(encoded["offset_mapping"], subject_ends, strict=True)]
    pairs = zip(ids_of_prompts, answer_ids, strict=True)
    return EncodedAnswers(
        input_ids=pad_right(rows, 0),
        positions=pad_right([list(range(len(p) - 1, len(p) - 1 + len(a))) for p, a in pairs], 0),
        labels=pad_right(answer_ids, IGNORE),
        subject=torch.tensor(last),
    )


def with_prompts(batch: EncodedAnswers) -> EncodedAnswers:
    """The same rows with a label for every token but the very first: those of the prompt as well as the answer's.

    Args:
        batch: N rows of prompt and answer, T tokens at most.

    Returns:
        Rows with ``positions`` and ``labels`` [N, T - 1], as those of a plain loss of a causal language model; the j-th position
        is j, except on padding.

    Example:
        >>> row = EncodedAnswers(torch.tensor([[5, 6, 7, 8]]), torch.tensor([[2]]), torch.tensor([[8]]), torch.tensor([1]))
        >>> with_prompts(row).positions.tolist(), with_prompts(row).labels.tolist()
        ([[0, 1, 2]], [[6, 7, 8]])
    """
    counted = (batch.labels != IGNORE).sum(1, keepdim=True)
    last = batch.positions[:, :1] + counted  # of each row's tokens
    places = torch.arange(batch.input_ids.shape[1] - 1, device=last.device).expand(len(batch), -1)
    real = places < last
    return replace(batch, positions=places.where(real, 0), labels=batch.input_ids[:, 1:].where(real, IGNORE))


def encode_subjects(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], subject_ends: Sequence[int]
) -> EncodedAnswers:
    """Tokenise texts up to the subject's last token, where the logits are read; there is no answer.

    Args:
        tokenizer: A fast tokenizer.
        texts: N texts that contain a subject.
        subject_ends: N character offsets just past the subject in its text.

    Returns:
        The batch with one position a row and every label ``IGNORE``. What follows the subject is left out: it cannot
        change what is read there.

    Raises:
        ModelError: If the tokenizer is no fast one.
    """
    check_fast(tokenizer)
    encoded = tokenizer(list(texts), return_offsets_mapping=True)
    last = [token_at(o, end - 1) for o, end in zip(encoded["offset_mapping"], subject_ends, strict=True)]
    subject = torch.tensor(last)
    return EncodedAnswers(
        input_ids=pad_right([ids[: index + 1] for ids, index in zip(encoded["input_ids"], last, strict=True)], 0),
        positions=subject.unsqueeze(1),
        labels=torch.full((len(last), 1), IGNORE),
        subject=subject,
    )


def without_eos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """A prompt's token ids without the end-of-text token that some tokenizers put behind every text.

    Args:
        tokenizer: The tokenizer.
        ids: Token ids of a prompt, with the tokenizer's default special tokens.
    """
    if isinstance(tokenizer, ChatTokenizer):
        return ids  # a template ends where the answer begins
    return ids[:-1] if len(ids) > 1 and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) else ids


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts, with the tokenizer's default special tokens in front and none behind.

    Args:
        tokenizer: The tokenizer.
        prompts: The prompts.
    """
    return [without_eos(tokenizer, ids) for ids in tokenizer(list(prompts))["input_ids"]]


def token_at(offsets: list[tuple[int, int]], character: int) -> int:
    """Index of the last token that covers a character (a character of several bytes may have several tokens).

    Args:
        offsets: For each token, where it begins in the text and where it ends, as a fast tokenizer gives them.
        character: Index of the character in the text.
    """
    covering = [index for index, (start, end) in enumerate(offsets) if start <= character < end]
    if covering:
        return covering[-1]
    # a normaliser dropped the character: the last token that begins before it, or else the first of the text
    real = [index for index, (start, end) in enumerate(offsets) if start < end]
    return max((index for index in real if offsets[index][0] <= character), default=real[0])


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of token ids as one tensor, int64.

    Args:
        rows: N rows.
        value: What to put behind the shorter ones.
    """
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=value)
