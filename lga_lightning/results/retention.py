"""How facts that were edited early fare as more edits come in, and what those cost: parts of ``validation.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.results.files import take_fields
from lga_lightning.results.validation_parts import means_after


@dataclass(frozen=True)
class CohortPoint:
    """How the facts of a cohort fare when so many edits are in place.

    Attributes:
        edits: How many edits are in place.
        scores: By metric, the teacher-forced mean after the edits; NaN where there is none.
    """

    edits: int
    scores: dict[str, float]

    @classmethod
    def of(cls, edits: int, results: Sequence[Sequence[EvalResult]]) -> CohortPoint:
        """From the results of the cohort's prompts."""
        return cls(edits, means_after(results))

    @classmethod
    def from_json(cls, content: Any) -> CohortPoint:
        """From a JSON object: the fields, and beside them the scores by name."""
        found = take_fields(cls, content, optional=["scores"], known=content)
        return cls(found["edits"], {name: score for name, score in content.items() if name not in found})

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"edits": self.edits, **self.scores}


@dataclass(frozen=True)
class Cohort:
    """Facts that were edited one after the other, asked again and again.

    Attributes:
        group: Number of the group with which it begins, from 1.
        first_edit: Number of its first edit, from 1.
        index: Positions of its requests in their data set.
        points: What became of them, by number of edits; the first is from when its last fact had just been edited.
    """

    group: int
    first_edit: int
    index: list[int] = field(default_factory=list)
    points: list[CohortPoint] = field(default_factory=list)

    @classmethod
    def from_json(cls, content: Any) -> Cohort:
        """From a JSON object."""
        found = take_fields(cls, content)
        return cls(**found | {"points": [CohortPoint.from_json(point) for point in found["points"]]})

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        content: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return content | {"points": [point.to_dict() for point in self.points]}

    def note(self, edits: int, results: Sequence[Sequence[EvalResult]]) -> None:
        """Add a point, unless there is one with as many edits.

        Args:
            edits: How many edits are in place.
            results: Results of each of the cohort's requests.
        """
        if results and all(point.edits != edits for point in self.points):
            self.points.append(CohortPoint.of(edits, results))


@dataclass(frozen=True)
class GrowthPoint:
    """What edits cost up to a point of the run.

    Attributes:
        edits: How many edits are in place.
        seconds: Time that editing took so far, scoring left out; of a run that went on, of all its parts.
        edits_per_minute: Speed since the point before.
        memory_mb: Memory of the process, in MB (10^6 bytes).
        device_peak_mb: Most memory that was taken on the accelerator, in MB; None without one.
    """

    edits: int
    seconds: float
    edits_per_minute: float
    memory_mb: float
    device_peak_mb: float | None = None

    @classmethod
    def from_json(cls, content: Any) -> GrowthPoint:
        """From a JSON object."""
        return cls(**take_fields(cls, content))

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)
