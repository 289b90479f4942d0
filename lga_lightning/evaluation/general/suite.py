"""Scores the questions and passages of the suite, with an edit attached and without."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.editing.attaching import attached
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.evaluation.general.held_out import Question
from lga_lightning.evaluation.responses import passage_nll
from lga_lightning.models.architecture import longest_text
from lga_lightning.models.cached_prompts import CachedPrompts
from lga_lightning.models.encoding import prompt_ids, target_ids
from lga_lightning.models.hooks import frozen
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class GeneralSuite:
    """Questions and passages, put to the unedited model and to an edited one in the same batches; no weight is touched.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer. Questions are asked in a chat where it says so, passages never are.
        questions: Questions. Those that are longer than the model's longest text are left out; Q are left.
        passages: P plain texts, each read up to the model's longest text.
        max_rows: Questions a batch; passages, whose every token has logits, an eighth of it.

    Raises:
        SettingError: If ``max_rows`` is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        passages: Sequence[str],
        max_rows: int = 64,
    ) -> None:
        check_at_least_one(max_rows=max_rows)
        self.model, self.tokenizer, self.max_rows = model, tokenizer, max_rows
        self.questions, self.passages = self._that_fit(questions), list(passages)

    def __len__(self) -> int:
        return len(self.questions) + len(self.passages)

    def __call__(self, items: Sequence[int], delta: WeightDelta) -> Tensor:
        """Score some items before and after an edit.

        Args:
            items: M numbers of items: questions from 0 on, passages from Q on.
            delta: The edit.

        Returns:
            [M, 2, 3] in float64, on the CPU: before and after; whether the answer's every token is the model's first choice
            (cloze), whether the right answer is the likeliest by its mean log-likelihood a token (multiple choice; a tie is
            wrong), and the mean negative log-likelihood of a passage in nats a token. NaN where an item has no such score.
        """
        scores = torch.full((len(items), 2, 3), math.nan, dtype=torch.float64)
        count = len(self.questions)
        kinds: tuple[tuple[list[int], int, Callable[[list[int]], Tensor]], ...] = (
            ([row for row, item in enumerate(items) if item < count], self.max_rows, self._ask),
            ([row for row, item in enumerate(items) if item >= count], max(1, self.max_rows // 8), self._read),
        )
        with frozen(self.model):
            for rows, step, score in kinds:
                for batch in _batches(rows, step):
                    numbers = [items[row] for row in batch]
                    scores[batch, 0] = score(numbers)
                    with attached(self.model, [delta]):
                        scores[batch, 1] = score(numbers)
        return scores

    def _that_fit(self, questions: Sequence[Question]) -> list[Question]:
        """The questions that the model can read with each of their answers."""
        if not questions:
            return []
        lengths = map(len, prompt_ids(self.tokenizer, [question.prompt for question in questions]))
        answers = {text for question in questions for text in (question.answer, *question.others)}
        most = max(len(target_ids(self.tokenizer, text)) for text in answers)
        return [q for q, n in zip(questions, lengths, strict=True) if longest_text(self.model, n + most) == n + most]

    def _ask(self, numbers: list[int]) -> Tensor:
        """Scores [M, 3] of questions: every answer is read behind its prompt, which goes through the model once."""
        asked = [self.questions[number] for number in numbers]
        cached = CachedPrompts(self.model, self.tokenizer, [question.prompt for question in asked])
        rows = [row for row, question in enumerate(asked) for _ in (question.answer, *question.others)]
        texts = [text for question in asked for text in (question.answer, *question.others)]
        known = {text: target_ids(self.tokenizer, text) for text in set(texts)}
        predictions, labels, nll = cached.predictions(rows, [known[text] for text in texts])
        whole = (predictions == labels).all(1)
        scores, start = torch.full((len(asked), 3), math.nan, dtype=torch.float64), 0
        for row, question in enumerate(asked):
            end = start + 1 + len(question.others)
            scores[row, 0] = whole[start]
            if question.others:
                scores[row, 1] = nll[start] < nll[start + 1 : end].min()
            start = end
        return scores

    def _read(self, numbers: list[int]) -> Tensor:
        """Scores [M, 3] of passages: all tokens but the first."""
        texts = [self.passages[number - len(self.questions)] for number in numbers]
        scores = torch.full((len(texts), 3), math.nan, dtype=torch.float64)
        scores[:, 2] = torch.tensor(passage_nll(self.model, self.tokenizer, texts), dtype=torch.float64)
        return scores


def _batches(rows: list[int], step: int) -> Iterator[list[int]]:
    yield from (rows[start : start + step] for start in range(0, len(rows), step))
