"""Edits that are each made alone; a run that is cut off goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import WeightDelta
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.modules.edit_schedule import EditSchedule, ScoredEdits
from lga_lightning.modules.run_state import RunState

AT_LEAST_EVERY = 60.0  # seconds: where edits are dear, a state is saved before there are many


@dataclass
class Independent(EditSchedule):
    """Every request edited alone, or with those of its group, on the unedited model.

    The state of a run is the results so far. Edits themselves are not in it: whoever needs them lets every run begin anew.
    """

    joint: ClassVar[bool] = False
    resumes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._state: RunState | None = None
        self._requests: Sequence[EditRequest] = ()
        self._earlier: dict[int, list[EvalResult]] = {}  # of the run that was cut off
        self._now: dict[int, list[EvalResult]] = {}
        self._saved, self._when = 0, time.monotonic()

    def keep_state(self, state: RunState, requests: Sequence[EditRequest]) -> None:
        """See :class:`EditSchedule`."""
        self._state, self._requests = state, requests
        for tensors, _ in state.load_parts():
            rows = json.loads(tensors["results"].numpy().tobytes())
            self._earlier |= {place: [EvalResult.of(record) for record in records] for place, records in rows}

    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> ScoredEdits | None:
        """Edit and score the batch, but for what an earlier run has done."""
        left = [(place, request) for place, request in zip(index, requests, strict=True) if place not in self._earlier]
        if not left:
            return None
        places, new = [place for place, _ in left], [request for _, request in left]
        scored = self.score(places, new, self.editor.compute_groups(self.llm, self.tokenizer, new, self.layers))
        if self._state is not None and self._state.every:
            self._now |= dict(zip(scored.index, scored.results, strict=True))
            if len(self._now) - self._saved >= self._state.every or time.monotonic() - self._when > AT_LEAST_EVERY:
                self._save(self._state)
        return scored

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """What an earlier run has found, all of it on each process: one that looked later may have found more. It counts once."""
        places = list(self._earlier)
        requests, results = [self._requests[place] for place in places], list(self._earlier.values())
        return ScoredEdits(places, requests, [WeightDelta({})] * len(places), results) if places else None

    def _save(self, state: RunState) -> None:
        rows = [(place, [asdict(one) for one in found]) for place, found in {**self._earlier, **self._now}.items()]
        content = bytearray(json.dumps(rows).encode())
        state.save({"results": torch.frombuffer(content, dtype=torch.uint8)}, {})
        self._saved, self._when = len(self._now), time.monotonic()
