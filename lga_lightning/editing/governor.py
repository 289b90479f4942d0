"""The limits of a long run: what edits, one group after the other, may do to a model before they have to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.utils.settings import check_at_least_one


@dataclass(frozen=True)
class Look:
    """What was found when a session was looked at; None for what has no limit.

    Attributes:
        edits: Number of edits in place.
        perplexity_ratio: Perplexity on plain text over that of the unedited model.
        locality: Share of the tokens on locality probes of facts edited so far that are what they were, teacher-forced.
        relative_norm: Frobenius norm of all changes over that of the weights, in the block that has changed most.
    """

    edits: int
    perplexity_ratio: float | None = None
    locality: float | None = None
    relative_norm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; what is None is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Stop:
    """Why a run was stopped, and what is kept of it.

    Attributes:
        reason: The limits that were passed, in words.
        made: Number of edits that were in place when that was found.
        edits: Number of edits that are kept: those of the last look within all limits.
    """

    reason: str
    made: int
    edits: int


@dataclass(frozen=True)
class Governor:
    """Limits at which a run in the mode ``sequential`` stops. A limit that is None is not looked at.

    A look is taken after the first group of requests, after every so many groups, and after the last.

    Args:
        perplexity_ratio: Perplexity on plain text, over that of the unedited model, at most.
        locality: Share of the tokens on locality probes of facts edited so far that stay what they were, teacher-forced, at least.
        relative_norm: Frobenius norm of all changes over that of the weights, in every block, at most.
        every: Number of groups between two looks.
        facts: Number of facts whose locality probes are asked, at most; they are drawn anew for each look, with a fixed seed.

    Raises:
        SettingError: If there is no limit, or one is outside its range.
    """

    perplexity_ratio: float | None = None
    locality: float | None = None
    relative_norm: float | None = None
    every: int = 10
    facts: int = 50

    def __post_init__(self) -> None:
        check_at_least_one(every=self.every, facts=self.facts)
        limits = (self.perplexity_ratio, self.locality, self.relative_norm)
        if limits == (None, None, None):
            raise SettingError(
                "The governor has no limit to watch. Give it one: `perplexity_ratio` (1.2), `locality` (0.6) or `relative_norm` (0.3)."
            )
        ratio, locality, norm = limits
        if ratio is not None and not (ratio > 1 and isfinite(ratio)):
            raise SettingError(
                f"`perplexity_ratio` is a multiple of the unedited model's perplexity, above 1, got {ratio}."
            )
        if locality is not None and not 0 < locality <= 1:
            raise SettingError(f"`locality` is a share, above 0 and at most 1, got {locality}.")
        if norm is not None and not (norm > 0 and isfinite(norm)):
            raise SettingError(f"`relative_norm` is a share of the weights' norm, above 0, got {norm}.")

    def check_requests(self, requests: Sequence[EditRequest]) -> None:
        """Refuse requests without locality probes where locality is to be watched.

        Args:
            requests: All requests of a run.

        Raises:
            DataError: If none has a locality probe.
        """
        if self.locality is not None and not any(map(has_locality, requests)):
            raise DataError(
                "The governor is to watch locality, and none of the requests has a locality probe. Give some of them probes "
                "(docs/data.md), or leave out `locality`."
            )

    def passed(self, look: Look) -> list[str]:
        """The limits that a look finds passed, in words. What is no number has passed its limit.

        Args:
            look: The look.

        Example:
            >>> Governor(relative_norm=0.3, locality=0.6).passed(Look(10, locality=0.55, relative_norm=0.2))
            ['locality of the facts edited so far is 0.55 (limit 0.6)']
        """
        found = []
        ratio, locality, norm = look.perplexity_ratio, look.locality, look.relative_norm
        if self.perplexity_ratio is not None and ratio is not None and not ratio <= self.perplexity_ratio:
            found.append(
                f"perplexity on plain text is {ratio:.4g} times that of the unedited model (limit {self.perplexity_ratio:g})"
            )
        if self.locality is not None and locality is not None and not locality >= self.locality:
            found.append(f"locality of the facts edited so far is {locality:.4g} (limit {self.locality:g})")
        if self.relative_norm is not None and norm is not None and not norm <= self.relative_norm:
            found.append(f"the change of a block's weights is {norm:.4g} of their norm (limit {self.relative_norm:g})")
        return found

    def settings(self) -> dict[str, Any]:
        """The limits and when they are looked at, for result files; limits that are None are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def has_locality(request: EditRequest) -> bool:
    """Whether a request has a locality probe."""
    return any(request.locality.values())
