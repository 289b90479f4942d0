"""What a layer locator is: per-request, per-layer scores, and one rule that makes a layer of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

from lga_lightning.attribution import Choice, choose
from lga_lightning.errors import SettingError
from lga_lightning.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Aggregate = Literal["sum", "magnitude"]


@dataclass(frozen=True)
class Evidence:
    """What a locator found out about a batch of B requests in a model of L blocks.

    Attributes:
        values: [B, C, L] one column for each of the locator's ``columns``, the score first.
        known: [B] whether the model answers with the old target by itself.
    """

    values: Tensor
    known: Tensor


class LayerLocator(ABC):
    """Scores every block of a model for every request, and picks one block.

    Args:
        kappa: Width of the Tukey fences, in interquartile ranges.
        aggregate: How requests are added up: ``sum`` (the paper's: of signed scores) or ``magnitude`` (of absolute values).
    """

    columns: tuple[str, ...] = ("scores",)
    """What is kept for each request and layer; the first is what layers are chosen by."""

    def __init__(self, kappa: float = 1.0, aggregate: Aggregate = "sum") -> None:
        if not kappa >= 0:
            raise SettingError(f"`kappa` must be at least 0, got {kappa}.")
        if aggregate not in get_args(Aggregate):
            raise SettingError(f"`aggregate` must be one of {list(get_args(Aggregate))}, got {aggregate!r}.")
        self.kappa = kappa
        self.aggregate: Aggregate = aggregate

    @abstractmethod
    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Score a batch of requests, all of which have an old target. The model is left as it was."""

    def choose(self, scores: Tensor) -> Choice:
        """Pick the layer: add up over requests, Tukey fences over layers, argmax.

        Args:
            scores: [N, L] per-request scores.
        """
        return choose(scores.abs() if self.aggregate == "magnitude" else scores, self.kappa)
