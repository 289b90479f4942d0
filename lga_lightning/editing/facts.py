"""Which facts an edit holds, which columns of its factors are whose, and which of them can be taken out again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.updates import LowRankUpdate, Update
from lga_lightning.exceptions import DataError

Columns = tuple[int, int]  # the first, and the one after the last


@dataclass(frozen=True)
class FactGroup:
    """Facts that were edited at once.

    Attributes:
        requests: The facts.
        columns: For each module that was changed, the columns of B (rows of A) that are the group's; None where the change of this
            module cannot be told from that of others, as it was folded to a lower rank, or is dense.
        each: Whether every fact has columns of its own, as many as any other, in the order of ``requests``.
        in_turn: Whether they were written one after the other, so that no fact depends on those behind it. Else all of them depend
            on each other.
        first: Number of the first group that was in place when this one was made, and with it all up to this one; its own number if
            it was made on the unedited model.
        layers: The edited blocks.
        method: Name and settings of the method.
        in_chat: Whether they were edited as turns of a chat; None where that is not recorded.
    """

    requests: tuple[EditRequest, ...]
    columns: Mapping[str, Columns | None]
    each: bool = False
    in_turn: bool = False
    first: int = 0
    layers: tuple[int, ...] = ()
    method: Mapping[str, Any] | None = None
    in_chat: bool | None = None

    def folded(self, modules: Collection[str]) -> FactGroup:
        """The same facts, with no columns of their own in some modules; itself where it has none there.

        Args:
            modules: Names of the modules.
        """
        if all(self.columns.get(name) is None for name in modules):
            return self
        return replace(self, columns={n: None if n in modules else span for n, span in self.columns.items()})

    def columns_of(self, row: int) -> dict[str, Columns | None]:
        """By module, the columns of one fact, or those that it shares with the rest of the group.

        Args:
            row: Number of the fact in the group.
        """
        if not self.each:
            return dict(self.columns)
        found: dict[str, Columns | None] = {}
        for name, span in self.columns.items():
            width = 0 if span is None else (span[1] - span[0]) // len(self.requests)
            found[name] = span and (span[0] + row * width, span[0] + (row + 1) * width)
        return found


@dataclass(frozen=True)
class Facts:
    """The facts of an edit, in groups, in the order in which they were made.

    Attributes:
        groups: The groups.
    """

    groups: tuple[FactGroup, ...] = ()

    @classmethod
    def of(
        cls,
        requests: Sequence[EditRequest],
        updates: Mapping[str, Update],
        column_each: bool,
        in_turn: bool,
        layers: Sequence[int],
        method: Mapping[str, Any],
        in_chat: bool | None = None,
    ) -> Facts:
        """One group, made on the unedited model.

        Args:
            requests: N facts.
            updates: What was made for them, by module.
            column_each: Whether the method gives each of them a column of its own, in order.
            in_turn: Whether they were written one after the other.
            layers: The edited blocks.
            method: Name and settings of the method.
            in_chat: Whether they were edited as turns of a chat.
        """
        spans = {name: (0, u.rank) if isinstance(u, LowRankUpdate) else None for name, u in updates.items()}
        each = len(requests) == 1 or (column_each and all(span == (0, len(requests)) for span in spans.values()))
        return cls((FactGroup(tuple(requests), spans, each, in_turn, 0, tuple(layers), method, in_chat),))

    def __len__(self) -> int:
        """The number of facts."""
        return sum(len(group.requests) for group in self.groups)

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        """Id of each fact, number of its group, and its number there.

        An id is made of prompt, subject and new target; the same fact a second time has a number behind it.
        """
        seen: dict[str, int] = {}
        for number, group in enumerate(self.groups):
            for row, request in enumerate(group.requests):
                name = _digest(request)
                seen[name] = seen.get(name, 0) + 1
                yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), number, row

    @property
    def requests(self) -> list[EditRequest]:
        """The facts, in order."""
        return [request for group in self.groups for request in group.requests]

    def joined(self, other: Facts, ranks: Mapping[str, int], on_top: bool = False) -> Facts:
        """These and others, whose columns stand behind.

        Args:
            other: The others.
            ranks: Ranks of this edit, by module.
            on_top: Whether the others were made with this edit in place.
        """
        count = len(self.groups)
        moved = []
        for group in other.groups:
            spans = {name: _moved(span, ranks.get(name, 0)) for name, span in group.columns.items()}
            moved.append(replace(group, columns=spans, first=0 if on_top else group.first + count))
        return Facts((*self.groups, *moved))

    def folded(self, modules: Collection[str]) -> Facts:
        """The same facts, with no columns of their own in some modules.

        Args:
            modules: Names of the modules, whose factors were replaced by others.
        """
        if not modules:
            return self
        return Facts(tuple(group.folded(modules) for group in self.groups))

    def renamed(self, name: Callable[[str], str]) -> Facts:
        """The same facts in modules of other names.

        Args:
            name: Gives the other name of a module.
        """
        names = {old: name(old) for old in {old for group in self.groups for old in group.columns}}
        return Facts(
            tuple(
                replace(group, columns={names[old]: span for old, span in group.columns.items()})
                for group in self.groups
            )
        )

    def entangled(self, chosen: Collection[str]) -> str:
        """Why some facts cannot be taken out exactly, in words; "" where they can.

        They can where what is left is the edit that would have been made without them: none of the facts that stay was solved for
        together with them, or made with them in place, and the columns are known.

        Args:
            chosen: Ids of the facts.
        """
        rows = self.rows(chosen)
        before = [0, *accumulate(len(of_group) for of_group in rows)]
        later = solved = 0
        for number, (group, out) in enumerate(zip(self.groups, rows, strict=True)):
            stay = len(group.requests) - len(out)
            if out and any(span is None for span in group.columns.values()):
                return "their change was folded into one with that of others (a lower rank, or whole matrices)"
            if before[number] > before[group.first]:
                later += stay
            elif out and stay:
                in_order = group.in_turn and group.each and min(out) >= stay
                solved += 0 if in_order else stay
        if later:
            return f"{later} of the facts that stay were edited with them in place"
        return f"{solved} of the facts that stay were solved for together with them" if solved else ""

    def without(self, chosen: Collection[str]) -> tuple[Facts, dict[str, set[int]]]:
        """The facts that stay, and, by module, the columns that go.

        Args:
            chosen: Ids of facts that are not entangled with those that stay.
        """
        rows = self.rows(chosen)
        gone: dict[str, set[int]] = {}
        for group, out in zip(self.groups, rows, strict=True):
            whole = len(out) == len(group.requests)
            spans = [group.columns] if whole else [group.columns_of(row) for row in out]
            for name, span in (item for of_fact in spans for item in of_fact.items()):
                gone.setdefault(name, set()).update(range(*span) if span else ())
        numbers = [0, *accumulate(len(out) < len(group.requests) for group, out in zip(self.groups, rows, strict=True))]
        stay = []
        for group, out in zip(self.groups, rows, strict=True):
            left = tuple(request for row, request in enumerate(group.requests) if row not in out)
            spans_left = {name: _without(span, gone.get(name, ())) for name, span in group.columns.items()}
            if left:
                stay.append(replace(group, requests=left, columns=spans_left, first=numbers[group.first]))
        return Facts(tuple(stay)), gone

    def check_ids(self, chosen: Collection[str]) -> None:
        """Refuse ids that are not there, and all of them.

        Args:
            chosen: Ids of facts that are to be taken out.

        Raises:
            DataError: If there is no such fact, or no fact would be left.
        """
        known = [name for name, _, _ in self]
        if unknown := [name for name in chosen if name not in known]:
            listed = ", ".join(known[:10]) + ", ..." * (len(known) > 10)
            raise DataError(
                f"There is no fact {', '.join(unknown)} in this edit. Its facts: {listed or 'none is recorded'}."
            )
        if len(set(chosen)) == len(known):
            raise DataError("No fact would be left. To have the model as it was, take the whole edit off.")

    def rows(self, chosen: Collection[str]) -> list[set[int]]:
        """For each group, the numbers of the chosen facts in it."""
        rows: list[set[int]] = [set() for _ in self.groups]
        for name, number, row in self:
            if name in chosen:
                rows[number].add(row)
        return rows

    def exact(self) -> Iterator[bool]:
        """Of each fact, whether it alone can be taken out exactly."""
        lowest = [group.first for group in self.groups] + [len(self.groups)]
        for number in reversed(range(len(self.groups))):
            lowest[number] = min(lowest[number], lowest[number + 1])
        for number, group in enumerate(self.groups):
            free = lowest[number + 1] > number and None not in group.columns.values()
            last = len(group.requests) - 1
            for row in range(last + 1):
                yield free and (not last or (group.in_turn and group.each and row == last))


NO_FACTS = Facts()


def _digest(request: EditRequest) -> str:
    said = json.dumps([request.prompt, request.subject, request.target_new], ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()[:8]


def _moved(span: Columns | None, by: int) -> Columns | None:
    return span and (span[0] + by, span[1] + by)


def _without(span: Columns | None, gone: Collection[int]) -> Columns | None:
    """Where columns are, once others are gone."""
    if span is None:
        return None
    start = span[0] - sum(column < span[0] for column in gone)
    return start, start + sum(column not in gone for column in range(*span))
