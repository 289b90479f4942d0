"""When edits are made: each alone, all together, or one group after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lga_lightning.data.agreement import check_agreement
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.targets import EditTargets
from lga_lightning.exceptions import DataError
from lga_lightning.models.likelihood import input_device
from lga_lightning.modules.edit_schedule import EditSchedule, JointSchedule, ScoredEdits, milestones
from lga_lightning.modules.independent import Independent
from lga_lightning.modules.sequential import Sequential
from lga_lightning.utils.dealing import gathered

Mode = Literal["independent", "batch", "sequential"]


@dataclass
class Batch(JointSchedule):
    """All requests edited together, then scored. Each process finds the targets of its batches; the update is made by all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._targets: list[tuple[list[int], EditTargets]] = []  # with the places of their requests

    @classmethod
    def check(cls, groups: Sequence[Sequence[EditRequest]]) -> None:
        """See :class:`EditSchedule`."""
        check_agreement([request for group in groups for request in group])

    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> None:
        """Find the batch's targets, which do not depend on the other requests."""
        known = len(self._places)
        if new := self.new(index, requests):
            targets = self.editor.optimize_targets(self.llm, self.tokenizer, new, self.layers)
            self._targets.append((list(self._places)[known:], targets))

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """Edit all requests, the first 1, 10, 100, ... of them by themselves too (unless the method cannot edit so few), and score."""
        shares = gathered(self._targets, input_device(self.llm)) if world_size > 1 else [self._targets]
        found = [part for share in shares for part in share]
        if found:
            everything = EditTargets.in_order(*zip(*found, strict=True))
            places = sorted({place for index, _ in found for place in index})
            self._places = dict(zip(places, everything.requests, strict=True))
            for count in milestones(len(everything.requests)):
                first = self.new_session()
                try:
                    first.edit_targets(everything.part(slice(count)))
                except DataError:  # too few for the method, as a single token for UltraEdit
                    continue
                self.note_drift(first, places[:count])
            self.session.edit_targets(everything)
        return super().finish(rank, world_size)


SCHEDULES: dict[str, type[EditSchedule]] = {"independent": Independent, "batch": Batch, "sequential": Sequential}
