"""What every metric of edits is: a name, the words that explain it, and a number for a prompt before and after an edit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from lga_lightning.evaluation.prompts import EvalPrompt
from lga_lightning.evaluation.responses import Response


class EditMetric(ABC):
    """One number for a prompt, before and after an edit.

    ``validation.json`` lists its mean over a request's prompts, then over requests, with intervals and the protocol.

    Attributes:
        name: Its key in results and files: letters, digits and underscores.
        protocol: One sentence that says how the number comes about.
    """

    name: str
    protocol: str

    def applies(self, prompt: EvalPrompt) -> bool:
        """Whether a prompt can be scored at all; any can, by default."""
        return True

    @abstractmethod
    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """Score the two responses to a prompt.

        Args:
            prompt: A prompt to which the metric applies.
            before: The unedited model's response.
            after: The edited model's.

        Returns:
            The number before and after the edit; None where the responses lack what it takes (their ``text`` is None where the
            model was not asked for words of its own).
        """


class Grouped(EditMetric):
    """A built-in metric whose means are listed by groups of prompts.

    Attributes:
        protocols: By group, or first part of a group's name, one sentence that says how the mean comes about.
    """

    protocols: ClassVar[Mapping[str, str]]
