"""The layer sweep: edit at every layer and see. The ground truth, and what the other locators save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.editing.delta import attached
from lga_lightning.evaluation.evaluator import WIDEST
from lga_lightning.evaluation.prompts import EvalPrompt, prompts_of
from lga_lightning.evaluation.responses import Response, ask
from lga_lightning.evaluation.results import EvalResult, compare_responses, mean_scores
from lga_lightning.locators.base import Evidence, LayerLocator, knows_old_answer
from lga_lightning.models.architecture import blocks
from lga_lightning.models.cached_prompts import unedited
from lga_lightning.models.hooks import frozen

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 64  # questions a pass


class LayerSweep(LayerLocator):
    """Scores a layer by editing each request there, on its own, and asking: the mean of rewrite, rephrase and locality.

    All requests of a batch are edited and asked together, each row with its own edit attached. What does not depend on the
    layer is found once: the unedited model's answers, and whatever the editor keeps, such as its context texts. The layer
    is the one of the highest mean; there are no fences.

    Args:
        editor: How facts are edited. None: with :class:`LGAModule`, as it edits; else R-ROME.
    """

    columns = ("scores", "rewrite", "rephrase", "locality")
    costly = True

    def __init__(self, editor: EditMethod | None = None) -> None:
        super().__init__(kappa=None, aggregate="mean")
        self.editor = editor

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> None:
        """Find what the editor needs at all layers, in one pass."""
        self.editor = self.editor or RROME()
        self.editor.prepare(model, tokenizer, range(len(blocks(model))))

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Token accuracies after an edit at each layer.

        Returns:
            Values [B, 4, L]: the mean of those of rewrite, rephrase and locality that a request has, and each of them; NaN where
            a request has no such question.
        """
        self.editor = self.editor or RROME()
        exam = _Exam(model, tokenizer, requests)
        by_layer = [
            exam.scores(self.editor.compute_each(model, tokenizer, requests, layer))
            for layer in range(len(blocks(model)))
        ]
        three = torch.stack(by_layer, dim=-1)
        values = torch.cat([three.nanmean(1, keepdim=True), three], dim=1)
        return Evidence(values.float(), knows_old_answer(model, tokenizer, requests))

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The editor's."""
        return {"editor": (self.editor or RROME()).settings(model)}


class _Exam:
    """The questions of some requests, with the unedited model's answers."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> None:
        self.model, self.tokenizer, self.requests = model, tokenizer, requests
        asked = [
            (row, question)
            for row, request in enumerate(requests)
            for question in prompts_of(request)
            if not question.group.startswith("portability")
        ]
        asked.sort(key=lambda one: len(one[1].prompt))  # similar lengths together
        self._batches = [asked[start : start + ROWS] for start in range(0, len(asked), ROWS)]
        with frozen(model):
            self._before = [ask(model, tokenizer, [q for _, q in part], unedited, None) for part in self._batches]

    def scores(self, deltas: Sequence[WeightDelta]) -> Tensor:
        """Rewrite, rephrase and locality [B, 3] with an edit for each request, the last a mean over its kinds."""
        results: list[list[EvalResult]] = [[] for _ in self.requests]
        with frozen(self.model):
            for part, before in zip(self._batches, self._before, strict=True):
                for (row, question), was, now in zip(part, before, self._after(part, deltas), strict=True):
                    results[row].append(compare_responses(question, was, now))
        kinds = sorted({o.group for found in results for o in found if o.group.startswith("locality")})
        empty = torch.full((len(results),), torch.nan, dtype=torch.float64)
        locality = torch.stack([mean_scores(results, kind, "token")[:, 1] for kind in kinds] or [empty])
        others = [mean_scores(results, name, "token")[:, 1] for name in ("rewrite", "rephrase")]
        return torch.stack([*others, locality.nanmean(0)], dim=1)

    def _after(self, part: Sequence[tuple[int, EvalPrompt]], deltas: Sequence[WeightDelta]) -> list[Response]:
        """Answers of the edited models."""
        if max(rank for delta in deltas for rank in delta.ranks.values()) <= WIDEST:
            edit = torch.tensor([row for row, _ in part])
            questions = [question for _, question in part]
            return ask(
                self.model, self.tokenizer, questions, lambda rows: attached(self.model, deltas, edit[rows]), None
            )
        replies: dict[int, Response] = {}  # wide edits are not gathered row by row, but asked about one after the other
        for owner in sorted({row for row, _ in part}):
            places = [place for place, (row, _) in enumerate(part) if row == owner]
            questions = [part[place][1] for place in places]
            with attached(self.model, [deltas[owner]]):
                replies |= dict(zip(places, ask(self.model, self.tokenizer, questions, unedited, None), strict=True))
        return [replies[place] for place in range(len(part))]
