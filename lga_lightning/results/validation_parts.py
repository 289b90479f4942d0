"""The parts of ``validation.json``: a metric, a point of the drift curve, one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lga_lightning.evaluation.prompts import FLUENCY
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.evaluation.summary import summarise
from lga_lightning.results.files import take_fields
from lga_lightning.utils.tensors import largest


@dataclass(frozen=True)
class Metric:
    """Means over requests before and after the edits, with their intervals.

    Attributes:
        before: Mean on the unedited model; NaN where no request has such a prompt.
        after: Mean on the edited model.
        before_ci: Ends of the interval of ``before``.
        after_ci: Ends of the interval of ``after``.
        num_requests: How many requests have such a prompt.
        protocol: What the number is, in words.
        others: The same prompts scored in other ways, by name: ``generated`` and ``begins``.
    """

    before: float
    after: float
    before_ci: list[float]
    after_ci: list[float]
    num_requests: int
    protocol: str
    others: dict[str, Metric] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Any) -> Metric:
        """From a JSON object: the fields, and beside them the other ways by name."""
        found = take_fields(cls, content, optional=["others"], known=content)
        return cls(**found, others={name: cls.from_json(other) for name, other in content.items() if name not in found})

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        content = asdict(self)
        del content["others"]
        return content | {name: other.to_dict() for name, other in self.others.items()}

    @property
    def sides(self) -> list[tuple[float, list[float]]]:
        """Mean and interval before, then after."""
        return [(self.before, self.before_ci), (self.after, self.after_ci)]


def means_after(results: Sequence[Sequence[EvalResult]]) -> dict[str, float]:
    """Teacher-forced means over requests after the edits, by metric, with the parts of families (``locality.neighborhood``) and CounterFact's."""
    return {name: metric["after"] for name, metric in summarise(results, resamples=1).items() if name != FLUENCY}


@dataclass(frozen=True)
class DriftPoint:
    """How the facts edited so far fare when so many edits are in place.

    Attributes:
        edits: How many edits are in place.
        relative_change: By layer, the Frobenius norm of the change over that of the weight.
        scores: By metric, the teacher-forced mean after the edits; NaN where there is none.
    """

    edits: int
    relative_change: dict[int, float]
    scores: dict[str, float]

    @classmethod
    def of(cls, edits: int, change: Mapping[int, float], results: Sequence[Sequence[EvalResult]]) -> DriftPoint:
        """From the results of the prompts about the facts edited so far.

        Args:
            edits: How many edits are in place.
            change: By layer, the relative size of the change.
            results: Results of each request edited so far.
        """
        return cls(edits, dict(change), means_after(results))

    @classmethod
    def from_json(cls, content: Any) -> DriftPoint:
        """From a JSON object: the fields, and beside them the scores by name."""
        found = take_fields(cls, content, optional=["scores"], known=content)
        change = {int(layer): size for layer, size in found["relative_change"].items()}
        return cls(found["edits"], change, {name: score for name, score in content.items() if name not in found})

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        change = {str(layer): size for layer, size in self.relative_change.items()}
        return {"edits": self.edits, "relative_change": change, **self.scores}

    @property
    def largest_change(self) -> float:
        """Relative change of the layer that has changed most; 0 where none has, NaN where one's is."""
        return largest(self.relative_change.values())


@dataclass(frozen=True)
class RequestScores:
    """One request and its results.

    Attributes:
        id: Where the request came from.
        prompt: Its prompt.
        subject: Its subject, if it has one.
        target_old: Its old target, if it has one.
        target_new: Its new target.
        scores: By group of prompts, the scores that :func:`~lga_lightning.evaluation.summary.mean_by_group` gives.
    """

    id: str
    prompt: str
    subject: str | None
    target_old: str | None
    target_new: str
    scores: dict[str, dict[str, Any]]

    @classmethod
    def from_json(cls, content: Any) -> RequestScores:
        """From a JSON object: the fields, and beside them the scores by group."""
        found = take_fields(cls, content, optional=["scores"], known=content)
        return cls(**found, scores={name: scores for name, scores in content.items() if name not in found})

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        content = asdict(self)
        return content | content.pop("scores")
