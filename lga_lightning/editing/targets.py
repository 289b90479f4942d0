"""What editing methods find out about requests one by one, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import TypeVar

import torch

from lga_lightning.data.requests import EditRequest

EditTargetsT = TypeVar("EditTargetsT", bound="EditTargets")


@dataclass
class EditTargets:
    """What a method has found for N requests one by one, before anything is written.

    Attributes:
        requests: N requests; every other field is a tensor with a row for each.
    """

    requests: list[EditRequest]

    @classmethod
    def join(cls: type[EditTargetsT], parts: Sequence[EditTargetsT]) -> EditTargetsT:
        """Several of them as one."""
        names = [f.name for f in fields(cls) if f.name != "requests"]
        requests = list(chain.from_iterable(part.requests for part in parts))
        return cls(requests, **{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    @staticmethod
    def in_order(places: Iterable[Sequence[int]], parts: Iterable[EditTargetsT]) -> EditTargetsT:
        """Parts of a whole as one, each request once.

        Args:
            places: For each part, the places of its requests in the whole.
            parts: The parts, at least one.
        """
        found = {
            place: one
            for rows, part in zip(places, parts, strict=True)
            for place, one in zip(rows, part.each(), strict=True)
        }
        each = [found[place] for place in sorted(found)]
        return each[0].join(each)

    def part(self: EditTargetsT, rows: slice) -> EditTargetsT:
        """Those of some of the requests."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def each(self: EditTargetsT) -> list[EditTargetsT]:
        """One for each request."""
        return [self.part(slice(i, i + 1)) for i in range(len(self.requests))]
