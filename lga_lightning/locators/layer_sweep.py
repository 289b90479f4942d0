"""The layer sweep: edit at every layer and see. The ground truth, and what the other locators save."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod
from lga_lightning.editing.base import ascending
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.locators.base import Evidence, LayerLocator, knows_old_answer
from lga_lightning.models.architecture import blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PARTS = ("rewrite", "rephrase", "locality")
"""What an edit is scored by."""


class LayerSweep(LayerLocator):
    """Scores a layer by editing each request there, on its own, and evaluating it: the mean of rewrite, rephrase and locality.

    All requests of a batch are edited and evaluated together, each row with its own edit attached. What does not depend on the
    layer is found once: the unedited model's responses, and whatever the editor keeps, such as its context texts. The layer
    is the one of the highest mean; there are no fences. Of a method that edits a window, a layer stands for the window that ends there.

    The best layer for one fact need not be the best for many: edits that are made together meet in the same matrix. With
    ``together``, the requests of a batch are one edit, and each is scored with all of it in place.

    Args:
        editor: How facts are edited. None edits as the run does, and by itself with R-ROME.
        layers: Edit at these alone; all others count as 0. None for all.
        together: Whether the requests of a batch are edited together, so that scores depend on which and how many they are.
    """

    columns = ("scores", *PARTS)
    costly = True

    def __init__(
        self, editor: EditMethod | None = None, layers: Sequence[int] | None = None, together: bool = False
    ) -> None:
        super().__init__(kappa=None, aggregate="mean")
        self.editor = editor
        self.together = together
        self.layers = None if layers is None else sorted(set(layers))

    @property
    def by_batch(self) -> bool:
        """Whether a batch is one edit."""
        return self.together

    @property
    def needs_subject(self) -> bool:
        """Whether the editor needs one."""
        return (self.editor or RROME()).needs_subject

    def for_editor(self, editor: EditMethod) -> LayerLocator:
        """A sweep that edits as the run does, if it does not say how."""
        if self.editor is not None:
            return self
        own = copy.copy(self)  # of the same class
        own.editor = editor
        return own

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> None:
        """Find what the editor needs at the layers, in one pass."""
        self.editor = self.editor or RROME()
        needed = {block for layer in self._edited(model) for block in self.editor.window_at(layer)}
        self.editor.prepare(model, tokenizer, sorted(needed))

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Token accuracies after an edit at each layer.

        Returns:
            Values [B, 4, L]: the mean of those of rewrite, rephrase and locality that a request has, and each of them; NaN where
            a request has no such prompt. At layers that are left out, the mean is 0 and the others NaN.

        Raises:
            SettingError: If ``layers`` is empty.
            LayerError: If the model lacks one of them.
            DataError: If requests contradict each other that are to be edited together.
        """
        self.editor = self.editor or RROME()
        layers = self._edited(model)
        values = torch.full((len(requests), len(self.columns), len(blocks(model))), torch.nan, dtype=torch.float64)
        values[:, 0] = 0
        places = map(self.editor.window_at, layers)
        values[..., layers] = score_edits(model, tokenizer, requests, self.editor, places, self.together)
        return Evidence(values.float(), knows_old_answer(model, tokenizer, requests))

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The editor's, the layers where they are not all, and whether requests are edited together."""
        chosen: dict[str, Any] = {} if self.layers is None else {"layers": self.layers}
        chosen |= {"together": True} if self.together else {}
        return {"editor": (self.editor or RROME()).settings_by_layer(model), **chosen}

    def _edited(self, model: PreTrainedModel) -> list[int]:
        return ascending(model, range(len(blocks(model))) if self.layers is None else self.layers)


def score_edits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    editor: EditMethod,
    places: Iterable[int | Sequence[int]],
    together: bool = False,
) -> Tensor:
    """What edits score at each of some places: each request is edited there, and evaluated.

    Args:
        model: A causal language model; it is left as it was.
        tokenizer: Its fast tokenizer.
        requests: B requests.
        editor: How facts are edited.
        places: P places: the block that is edited, or several.
        together: Whether all requests are one edit; else each is edited on its own.

    Returns:
        [B, 4, P] in float64: the mean of those of ``PARTS`` that a request has, and each of them; NaN where a request has no
        such prompt.
    """
    evaluate = Evaluator(model, tokenizer, requests, EvaluationConfig(generate=False, families=PARTS))
    by_place = []
    for layers in places:
        if together:
            edits = [editor.compute(model, tokenizer, requests, layers, len(requests))] * len(requests)
        else:
            edits = editor.compute_each(model, tokenizer, requests, layers)
        results = evaluate(edits)
        by_place.append(torch.stack([mean_scores(results, part, "token")[:, 1] for part in PARTS], dim=1))
    three = torch.stack(by_place, dim=-1)
    return torch.cat([three.nanmean(1, keepdim=True), three], dim=1)
