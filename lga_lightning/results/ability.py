"""What edits left of a model's general ability: a part of ``validation.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AbilityScore:
    """One ability before and after the edits.

    Attributes:
        before: Mean over items on the unedited model.
        after: Mean on the edited model.
        ratio: ``after / before``; NaN where ``before`` is 0.
        before_ci: Ends of the 95% interval of ``before``.
        after_ci: Ends of the interval of ``after``.
        ratio_ci: Ends of the interval of ``ratio``, of the same draws on both sides.
        num_items: How many items were asked.
        protocol: What the number is, in words.
    """

    before: float
    after: float
    ratio: float
    before_ci: list[float]
    after_ci: list[float]
    ratio_ci: list[float]
    num_items: int
    protocol: str

    @property
    def sides(self) -> list[tuple[float, list[float]]]:
        """Mean and interval before, then after, then the ratio with its own."""
        return [(self.before, self.before_ci), (self.after, self.after_ci), (self.ratio, self.ratio_ci)]


@dataclass(frozen=True)
class AbilityResult:
    """Several abilities, asked in the same way.

    Attributes:
        asked: What was asked, in words.
        edited: Which edits were in place, in words.
        scores: The abilities by name.
    """

    asked: str
    edited: str
    scores: dict[str, AbilityScore]

    @classmethod
    def of(cls, asked: str, edited: str, entries: Mapping[str, Any]) -> AbilityResult:
        """From scores as JSON objects, by name."""
        return cls(asked, edited, {name: AbilityScore(**entry) for name, entry in entries.items()})

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)
