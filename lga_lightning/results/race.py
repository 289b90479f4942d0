"""The outcome of a race of edits: a part of ``attribution.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RaceResult:
    """What real edits said about the layers that a forecast named.

    Attributes:
        layers: The winner's blocks, ascending: one, or a window.
        layer: The block that names it; of a window the last.
        confidence: Probability that the winner is within ``tolerance`` of the best of all layers, from 0 to 1.
        tolerance: How far behind the best layer it may be, in points.
        settled: Whether the confidence that was asked for is reached.
        ended: Why it ended: ``settled``, or ``budget`` or ``requests`` where one of these was used up before.
        edits: How many edits were made.
        seconds: How long they took; None where nobody looked.
        requests: How many requests were edited, each at one layer or more.
        edited: [L] edits made at each layer.
        scores: [L] expected scores after the race, in points.
        intervals: [L] their 95% intervals, in points.
        parts: By name (rewrite, rephrase, locality), [L] mean token scores of the real edits at each layer, from 0 to 1; NaN
            where none was made.
        editor: Settings of the method that edited.
        settings: Settings of the race.
    """

    layers: list[int]
    layer: int
    confidence: float
    tolerance: float
    settled: bool
    ended: str
    edits: int
    seconds: float | None
    requests: int
    edited: list[int]
    scores: list[float]
    intervals: list[tuple[float, float]]
    parts: dict[str, list[float]]
    editor: dict[str, Any]
    settings: dict[str, Any]
