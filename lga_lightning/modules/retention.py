"""Watches edits that are made one after the other: which facts are asked again, and what editing costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.results.retention import Cohort, GrowthPoint
from lga_lightning.utils.memory import device_peak_mb, resident_mb

COHORT = 8
"""Facts of a cohort: those of its group, and of the groups after it where groups are smaller."""
STEP = 1.25
"""Factor by which the number of edits grows from one point of speed and memory to the next."""

Results = Sequence[EvalResult]


class Cohorts:
    """The facts of the 1st, 10th, 100th, ... group and, of smaller groups, of those after it until there are ``COHORT``.

    Attributes:
        all: The cohorts so far.
    """

    def __init__(self) -> None:
        self.all: list[Cohort] = []
        self._groups = 0
        self._edits = 0

    def add(self, index: Sequence[int]) -> Cohort | None:
        """Count a group that has just been edited.

        Args:
            index: Positions of its requests in their data set.

        Returns:
            The cohort that has its last fact now; None if there is none such.
        """
        self._groups += 1
        begins = str(self._groups).strip("0") == "1"  # 1, 10, 100, ...
        if begins:
            self.all.append(Cohort(self._groups, self._edits + 1))
        self._edits += len(index)
        cohort = self.all[-1]
        if not begins and len(cohort.index) >= COHORT:
            return None
        cohort.index.extend(index)
        return cohort if len(cohort.index) >= COHORT else None

    def note(self, edits: int, results: Mapping[int, Results]) -> None:
        """Add a point to every cohort that has all of its facts.

        Args:
            edits: How many edits are in place.
            results: Results by the requests' positions.
        """
        for cohort in self.all:
            if len(cohort.index) >= COHORT:
                cohort.note(edits, [results[place] for place in cohort.index])

    def forget_after(self, edits: int) -> None:
        """Forget facts, and what was noted, with more edits in place than are kept.

        Args:
            edits: How many edits are kept.
        """
        self.all = [cohort for cohort in self.all if cohort.first_edit + len(cohort.index) - 1 <= edits]
        for cohort in self.all:
            cohort.points[:] = [point for point in cohort.points if point.edits <= edits]

    def state(self) -> dict[str, Any]:
        """All of it, as a JSON object."""
        return {"groups": self._groups, "edits": self._edits, "all": [cohort.to_dict() for cohort in self.all]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._groups, self._edits = state["groups"], state["edits"]
        self.all = [Cohort.from_json(cohort) for cohort in state["all"]]


class Growth:
    """Speed and memory, a point whenever the number of edits has grown by a quarter.

    Args:
        device: Where the model is.
        clock: Gives the time in seconds.

    Attributes:
        points: The points so far.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.clock = device, clock
        self.points: list[GrowthPoint] = []
        self._seconds = 0.0

    @contextmanager
    def measured(self, edits: Callable[[], int]) -> Iterator[None]:
        """Within the block, a group is edited.

        Args:
            edits: Gives the number of edits that are in place; it is asked after the block.
        """
        start = self.clock()
        yield
        self._seconds += self.clock() - start
        if edits() >= STEP * (self.points[-1].edits if self.points else 0):
            self.add(edits())

    def add(self, edits: int) -> None:
        """Add a point, unless there is one with as many edits.

        Args:
            edits: How many edits are in place.
        """
        before, since = (self.points[-1].edits, self.points[-1].seconds) if self.points else (0, 0.0)
        if edits > before:
            speed = 60 * (edits - before) / max(self._seconds - since, 1e-9)
            memory = resident_mb(), device_peak_mb(self.device)
            self.points.append(GrowthPoint(edits, self._seconds, speed, *memory))

    def state(self) -> dict[str, Any]:
        """All of it, as a JSON object."""
        return {"seconds": self._seconds, "points": [point.to_dict() for point in self.points]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._seconds = state["seconds"]
        self.points = [GrowthPoint.from_json(point) for point in state["points"]]
