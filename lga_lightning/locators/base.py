"""What a layer locator is: per-request, per-layer scores, and one rule that makes a layer of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EditMethod
from lga_lightning.exceptions import SettingError
from lga_lightning.locators.aggregation import (
    AGGREGATES,
    Aggregate,
    RelationLayers,
    choose_by_relation,
    contributions,
    shared,
)
from lga_lightning.locators.selection import Choice, choose
from lga_lightning.metrics.accuracy import token_accuracy
from lga_lightning.models.answers import read_answers
from lga_lightning.models.architecture import Scope
from lga_lightning.models.encoding import encode_answers
from lga_lightning.models.hooks import frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.utils.settings import ShowsSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# what result files have under these names, beside a locator's columns
FIELDS_OF_RESULTS = {
    *(one.name for one in fields(Choice)),
    "schema",
    "checksum",
    "model",
    "data",
    "locator",
    "scope",
    "aggregate",
    "num_requests",
    "num_skipped",
    "choice",
    "signed_scores",
    "means",
    "half_widths",
    "versions",
    "settings",
    "requests_to_settle",
    "stopped_early",
    "relations",
    "seconds",
    "neighbours",
    "race",
    "weights",
    "experts",
}


@dataclass(frozen=True)
class Evidence:
    """What a locator found out about a batch of B requests in a model of L blocks.

    Attributes:
        values: [B, C, L] one column for each of the locator's ``columns``, the score first. Columns after it are NaN where
            a request says nothing about them.
        known: [B] whether the model answers with the old target by itself.
    """

    values: Tensor
    known: Tensor


class LayerLocator(ShowsSettings, ABC):
    """Scores every block of a model for every request, and picks one block.

    Args:
        kappa: Width of the Tukey fences, in interquartile ranges; None for no fences.
        aggregate: How requests are added up; see :func:`contributions`.
        neighbours: A layer's contributions are the means over it and so many layers on either side.
    """

    columns: tuple[str, ...] = ("scores",)
    """What is kept for each request and layer; the first is what layers are chosen by."""

    scope: Scope | None = None
    """What gradients are taken of; None for a locator that takes none."""

    uses_requests: bool = True
    """Whether a score depends on the request. If not, the model is not run, and no old answer is asked of it."""

    costly: bool = False
    """Whether a score takes so long that requests which will not count had better be left out before."""

    only_known: bool = False
    """Whether requests count only where the model gives the old target, whatever the run's own setting."""

    def __init__(self, kappa: float | None = 1.0, aggregate: Aggregate = "sum", neighbours: int = 0) -> None:
        if kappa is not None and not kappa >= 0:
            raise SettingError(f"`kappa` must be at least 0, got {kappa}.")
        if aggregate not in AGGREGATES:
            raise SettingError(f"`aggregate` must be one of {list(AGGREGATES)}, got {aggregate!r}.")
        if neighbours < 0:
            raise SettingError(f"`neighbours` must be at least 0, got {neighbours}.")
        self.kappa = kappa
        self.aggregate: Aggregate = aggregate
        self.neighbours = neighbours

    @property
    def by_batch(self) -> bool:
        """Whether a score depends on the requests that are in one batch with it."""
        return False

    @property
    def needs_subject(self) -> bool:
        """Whether it works at the subject's last token, so that requests without one are left out, and counted."""
        return True

    def accepts(self, request: EditRequest) -> bool:
        """Whether a request has the subject that the locator needs, if it needs one."""
        return not self.needs_subject or request.subject is not None

    def for_editor(self, editor: EditMethod) -> LayerLocator:
        """The locator for runs that edit with a method; itself, where scores do not depend on how facts are edited."""
        return self

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> None:
        """Whatever must be found out from all requests of a run before the first is scored; nothing by default."""

    @abstractmethod
    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Score a batch of requests. In a run all of them have an old target. The model is left as it was."""

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Everything that the evidence on a model depends on, for result files and checkpoints."""
        return {}

    def contributions(self, scores: Tensor) -> Tensor:
        """What each request contributes to the layers' scores, [N, L] -> [N, L]."""
        return shared(contributions(scores, self.aggregate), self.neighbours)

    def choose(self, scores: Tensor, resamples: int = 1000) -> Choice:
        """Pick the layer: add up over requests, Tukey fences over layers, argmax.

        Args:
            scores: [N, L] per-request scores.
            resamples: Bootstrap resamples for the confidence.
        """
        return choose(self.contributions(scores), self.kappa, resamples)

    def choose_by_relation(self, scores: Tensor, relations: Sequence[str | None]) -> RelationLayers | None:
        """A layer for each relation by the same rule, and whether they differ.

        Args:
            scores: [N, L] per-request scores.
            relations: N names of relations, or None.
        """
        return choose_by_relation(self.contributions(scores), relations, self.kappa)


def check_columns(locator: LayerLocator) -> None:
    """Refuse columns that result files have no room for.

    Args:
        locator: How layers are scored.

    Raises:
        SettingError: If a column but the first, the scores, is called as a field of the file is.
    """
    taken = FIELDS_OF_RESULTS.intersection(locator.columns[1:])
    if taken:
        raise SettingError(
            f"The columns {sorted(taken)} of {locator!r} cannot be written: results have something else under these names. Give them "
            "names of their own (`columns`)."
        )


def knows_old_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> Tensor:
    """Whether the model gives each request's old target by itself, greedily; one without takes what it gives, so it does.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        requests: B requests.

    Returns:
        [B] booleans, on the device of the token ids.
    """
    known = torch.ones(len(requests), dtype=torch.bool, device=input_device(model))
    asked = [(row, request.prompt, request.target_old) for row, request in enumerate(requests) if request.target_old]
    if asked:
        rows, prompts, answers = (list(column) for column in zip(*asked, strict=True))
        batch = encode_answers(tokenizer, prompts, answers).to(known.device)
        with torch.no_grad(), frozen(model):
            predicted = read_answers(model, batch).predicted
        known[rows] = (token_accuracy(predicted, batch.labels) == 1).to(known.device)
    return known


def first_known(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    limit: int,
    batch_size: int = 16,
) -> list[EditRequest]:
    """The first requests whose old answer the model gives by itself; no more are asked than it takes to find them.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        requests: The requests; one without an old target counts, as in :func:`knows_old_answer`.
        limit: How many to find, at most.
        batch_size: Requests that are asked at once.
    """
    found: list[EditRequest] = []
    for start in range(0, len(requests), batch_size):
        if len(found) >= limit:
            break
        asked = requests[start : start + batch_size]
        knows = knows_old_answer(model, tokenizer, asked).tolist()
        found += [request for request, right in zip(asked, knows, strict=True) if right]
    return found[:limit]
