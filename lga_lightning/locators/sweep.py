"""The layer sweep: edit at every layer and see. The ground truth, and what the other locators save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing import RROME, EditMethod
from lga_lightning.evaluation import evaluate_each, question_columns
from lga_lightning.families import blocks
from lga_lightning.locators.base import Evidence, LayerLocator, knows_old_answer
from lga_lightning.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LayerSweep(LayerLocator):
    """Scores a layer by editing each request there, on its own, and asking: the mean of rewrite, rephrase and locality.

    All requests of a batch are edited and asked together, each row with its own edit attached. What does not depend on the
    layer, such as the editor's context texts, is found once. The layer is the one of the highest mean; there are no
    fences.

    Args:
        editor: How facts are edited. None: with :class:`LGAModule`, as it edits; else R-ROME.
    """

    columns = ("scores", "rewrite", "rephrase", "locality")

    def __init__(self, editor: EditMethod | None = None) -> None:
        super().__init__(kappa=None, aggregate="mean")
        self.editor = editor

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Token accuracies after an edit at each layer.

        Returns:
            Values [B, 4, L]: the mean of those of rewrite, rephrase and locality that a request has, and each of them; NaN where
            a request has no such question.
        """
        self.editor = self.editor or RROME()
        columns = [name for name in question_columns(requests) if not name.startswith("portability")]
        by_layer = []
        for layer in range(len(blocks(model))):
            deltas = self.editor.compute_each(model, tokenizer, requests, layer)
            by_layer.append(evaluate_each(model, tokenizer, requests, deltas, columns)[:, 1])
        values = sweep_scores(torch.stack(by_layer, dim=-1), columns)
        return Evidence(values.float(), knows_old_answer(model, tokenizer, requests))

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The editor's."""
        return {"editor": (self.editor or RROME()).settings(model)}


def sweep_scores(after: Tensor, columns: Sequence[str]) -> Tensor:
    """From scores by group of questions to the sweep's columns.

    Args:
        after: [B, Q, L] scores after the edit, NaN where a request has no such question.
        columns: The Q groups of questions: rewrite, rephrase, kinds of locality.

    Returns:
        [B, 4, L] the mean of the three, rewrite, rephrase, and the mean over kinds of locality.
    """
    groups = []
    for name in ("rewrite", "rephrase", "locality"):
        members = [c for c, column in enumerate(columns) if column.split(".")[0] == name]
        empty = torch.full_like(after[:, 0], torch.nan)
        groups.append(after[:, members].nanmean(1) if members else empty)
    three = torch.stack(groups, dim=1)
    return torch.cat([three.nanmean(1, keepdim=True), three], dim=1)
