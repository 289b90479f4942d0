"""Edits one group after the other, each with all before it in place; a run that is cut off goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from lga_lightning.data.agreement import check_agreement
from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.session_watch import SessionWatch
from lga_lightning.models.likelihood import input_device
from lga_lightning.modules.edit_schedule import JointSchedule, ScoredEdits, milestones
from lga_lightning.modules.retention import Cohorts, Growth
from lga_lightning.modules.run_state import RunState
from lga_lightning.results.retention import Cohort, GrowthPoint
from lga_lightning.results.validation_parts import DriftPoint


@dataclass
class Sequential(JointSchedule):
    """Requests edited one group after the other, with all earlier edits in place, then scored.

    Of a group, each process finds its share of the targets; the update is made by all.
    """

    dealt: ClassVar[bool] = False
    resumes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._passed_a_milestone = False
        self._cohorts, self._growth = Cohorts(), Growth(input_device(self.llm))
        self._state: RunState | None = None
        self._groups = 0  # since the state was saved
        self._left_out = 0
        self._watch: SessionWatch | None = None
        if self.governor is not None:
            self._watch = SessionWatch(self.governor, self.llm, self.tokenizer, self.evaluation.passages)

    @classmethod
    def check(cls, groups: Sequence[Sequence[EditRequest]]) -> None:
        """See :class:`EditSchedule`: a later group may contradict an earlier one."""
        for group in groups:
            check_agreement(group)

    @property
    def cohorts(self) -> list[Cohort]:
        """Facts of the 1st, 10th, 100th, ... group, with what became of them before the last edit."""
        return self._cohorts.all

    @property
    def growth(self) -> list[GrowthPoint]:
        """Speed and memory by number of edits."""
        return self._growth.points

    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> None:
        """Edit the batch on top of what was edited before; nothing once the governor has stopped the run."""
        known = len(self._places)
        new = self.new(index, requests)
        if not new or (self._watch is not None and self._watch.stop is not None):
            return
        if self._passed_a_milestone:  # not before now: after the last group, the final scores serve
            self._look_back()
        before = len(self.session.requests)
        self.group_size = max(self.group_size or 0, len(new))
        self.editor.prepare(self.llm, self.tokenizer, self.layers)  # on every process, before there is an edit
        with self._growth.measured(lambda: len(self.session.requests)):
            self.session.edit(new, len(new), self.deal)
        after = len(self.session.requests)
        self._passed_a_milestone = any(before < point <= after for point in milestones(10 * after))
        cohort = self._cohorts.add(list(self._places)[known:])
        if cohort is not None and not self._passed_a_milestone:  # else the look back asks it, or the final scores serve
            cohort.note(after, self.ask([self._places[place] for place in cohort.index], self.session.delta))
        if self._watch is not None:
            self._watch.after_group(self.session)
        self._groups += 1
        if self._state is not None and self._state.every and self._groups >= self._state.every:
            self._save()

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """Score this process's share of the requests whose edits are kept; where that is cut off, no edit need be made again."""
        if self._watch is not None:
            self._watch.finish(self.session)
            self._forget_what_is_not_kept(len(self.session.requests))
        self._growth.add(len(self.session.requests))
        if self._groups:
            self._save()
        drawn = set(self.evaluation.drawn(self._places))
        for cohort in self.cohorts:
            if not drawn >= set(cohort.index):  # else the final scores serve
                asked = [self._places[place] for place in cohort.index]
                cohort.note(len(self._places), self.ask(asked, self.session.delta))
        return super().finish(rank, world_size)

    def keep_state(self, state: RunState, requests: Sequence[EditRequest]) -> None:
        """See :class:`EditSchedule`."""
        self._state, found = state, state.load()
        if found is None:
            return
        tensors, notes = found
        self._places = {place: requests[place] for place in notes["seen"]}
        self.session.load_state_dict(tensors, [self._places[place] for place in notes["edited"]])
        self.drift = [DriftPoint.from_json(point) for point in notes["drift"]]
        self.group_size, self._passed_a_milestone = notes["group_size"], notes["passed_a_milestone"]
        self._cohorts.load_state(notes["cohorts"])
        self._growth.load_state(notes["growth"])
        if self._watch is not None:
            self._watch.take_up(self.session, notes["watch"])

    def governed(self) -> dict[str, Any] | None:
        """The limits, the looks, and why the run was stopped."""
        return None if self._watch is None else self._watch.report(self._left_out)

    def _forget_what_is_not_kept(self, kept: int) -> None:
        """Leave out the requests behind the last look within all limits, and what was noted with their edits in place."""
        self._left_out += len(self._places) - kept
        self._places = dict(islice(self._places.items(), kept))
        self.drift = [point for point in self.drift if point.edits < kept]
        self._cohorts.forget_after(kept)

    def _look_back(self) -> None:
        """Note how the requests edited so far fare, and every cohort of them."""
        edited = self._edited()
        results = self.note_drift(self.session, edited)
        left = [place for cohort in self.cohorts for place in cohort.index if place not in results]
        asked = self.ask([self._places[place] for place in left], self.session.delta) if left else []
        self._cohorts.note(len(edited), results | dict(zip(left, asked, strict=True)))

    def _edited(self) -> list[int]:
        """Positions of the requests that the session has edited, in order."""
        places = {id(request): place for place, request in self._places.items()}
        return [places[id(request)] for request in self.session.requests]

    def _save(self) -> None:
        if (
            self._state is None
            or not self._state.every
            or not (self._watch is None or self._watch.is_within(self.session))
        ):
            return  # a governed run goes on from where it was last within its limits
        notes = {
            "seen": list(self._places),
            "edited": self._edited(),
            "drift": [point.to_dict() for point in self.drift],
            "group_size": self.group_size,
            "passed_a_milestone": self._passed_a_milestone,
            "cohorts": self._cohorts.state(),
            "growth": self._growth.state(),
            "watch": None if self._watch is None else self._watch.notes(),
        }
        self._state.save(self.session.state_dict(), notes)
        self._groups = 0
