"""When edits are made, and on top of what: each alone, all together, or one group after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EditMethod, WeightDelta
from lga_lightning.editing.base import EditTargets
from lga_lightning.editing.governor import Governor
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.evaluator import EvaluationConfig, evaluate
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.evaluation.session_watch import SessionWatch
from lga_lightning.models.likelihood import input_device
from lga_lightning.modules.retention import Cohorts, Growth
from lga_lightning.modules.run_state import RunState
from lga_lightning.results.retention import Cohort, GrowthPoint
from lga_lightning.results.validation_parts import DriftPoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Mode = Literal["independent", "batch", "sequential"]


@dataclass(frozen=True)
class ScoredEdits:
    """Edits of some requests, and their results.

    Attributes:
        index: Positions of the N requests in their data set.
        requests: The N requests.
        deltas: Their N edits; the same object for requests that are edited together.
        results: N lists, a result for each prompt of the request.
    """

    index: list[int]
    requests: list[EditRequest]
    deltas: list[WeightDelta]
    results: list[list[EvalResult]]

    def to(self, device: object, **kwargs: object) -> ScoredEdits:
        """Itself: a trainer that keeps predictions would else look into every part for tensors to move."""
        return self


@dataclass
class EditSchedule(ABC):
    """Takes requests batch by batch and edits them; no weight stays touched between the calls.

    Args:
        editor: How facts are edited.
        llm: A causal language model.
        tokenizer: Its fast tokenizer.
        layers: The blocks to edit.
        evaluation: What is measured.
        governor: Limits at which the mode ``sequential`` stops; None for none.

    Attributes:
        delta: All edits together; None where every request is edited alone.
        drift: Scores of all facts edited so far, after 1, 10, 100, ... edits; the final scores are separate.
        group_size: Number of requests that are edited at once, at most; None for one, or for all.
    """

    joint: ClassVar[bool] = True
    """Whether edits are made on top of each other, so that every process needs all requests, in order."""
    resumes: ClassVar[bool] = False
    """Whether a run that was cut off can go on; see :meth:`keep_state`."""

    editor: EditMethod
    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: list[int]
    evaluation: EvaluationConfig
    governor: Governor | None = None
    delta: WeightDelta | None = field(default=None, init=False)
    drift: list[DriftPoint] = field(default_factory=list, init=False)
    group_size: int | None = field(default=None, init=False)

    def keep_state(self, state: RunState, requests: Sequence[EditRequest]) -> None:  # noqa: B027 - some have none to keep
        """Go on from where an earlier run was cut off, and leave the state of this one; nothing by default.

        Args:
            state: Where the state is kept.
            requests: All requests of the run.
        """

    @abstractmethod
    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> ScoredEdits | None:
        """Take in a batch of requests.

        Args:
            index: Their positions in the data set.
            requests: The requests.

        Returns:
            What can be scored by now: nothing, where later requests may still change it.
        """

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """Score what could not be scored before; nothing by default.

        Args:
            rank: Number of this process, which scores its share of the requests.
            world_size: Number of processes.
        """
        return None

    def relative_norms(self) -> dict[int, float]:
        """By block, the size of all edits made together, relative to the weights; empty where there are none."""
        return {}

    @property
    def cohorts(self) -> list[Cohort]:
        """Facts of early groups, with what became of them so far; empty where there are no groups."""
        return []

    @property
    def growth(self) -> list[GrowthPoint]:
        """Speed and memory by number of edits; empty where nobody looks at them."""
        return []

    def governed(self) -> dict[str, Any] | None:
        """What the governor found, for result files; None where there is none."""
        return None

    def score(
        self, index: Sequence[int], requests: Sequence[EditRequest], deltas: Sequence[WeightDelta]
    ) -> ScoredEdits:
        """Edits with their results."""
        results = evaluate(self.llm, self.tokenizer, requests, deltas, self.evaluation)
        return ScoredEdits(list(index), list(requests), list(deltas), results)


@dataclass
class Independent(EditSchedule):
    """Every request edited alone, or with those of its group, on the unedited model."""

    joint: ClassVar[bool] = False

    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> ScoredEdits:
        """Edit and score the batch."""
        deltas = self.editor.compute_groups(self.llm, self.tokenizer, requests, self.layers)
        return self.score(index, requests, deltas)


@dataclass
class _Joint(EditSchedule):
    """Edits in a session; their results are known at the end."""

    def __post_init__(self) -> None:
        self.session = self.new_session()
        self._places: dict[int, EditRequest] = {}

    def new_session(self) -> EditSession:
        """A session on the unedited model."""
        return EditSession(self.editor, self.llm, self.tokenizer, self.layers)

    def new(self, index: Sequence[int], requests: Sequence[EditRequest]) -> list[EditRequest]:
        """Those of a batch that were not there before: the same request twice is one edit."""
        found = {place: request for place, request in zip(index, requests, strict=True) if place not in self._places}
        self._places |= found
        return list(found.values())

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """Score this process's share of all requests."""
        if not self._places:
            return None
        self.delta = self.session.delta
        mine = list(self._places)[rank::world_size]
        return self.score(mine, [self._places[place] for place in mine], [self.delta] * len(mine))

    def relative_norms(self) -> dict[int, float]:
        """By block, the Frobenius norm of the change over that of the weights."""
        return self.session.relative_norms()

    def ask(self, requests: Sequence[EditRequest], delta: WeightDelta) -> list[list[EvalResult]]:
        """Teacher-forced results of requests with an edit in place."""
        return evaluate(self.llm, self.tokenizer, requests, [delta] * len(requests), self.evaluation.teacher_forced())

    def note_drift(self, session: EditSession) -> list[list[EvalResult]]:
        """How the requests edited so far fare, by teacher-forced scores."""
        results = self.ask(session.requests, session.delta)
        self.drift.append(DriftPoint.of(len(session.requests), session.relative_norms(), results))
        return results


@dataclass
class Batch(_Joint):
    """All requests edited together, then scored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._targets: list[EditTargets] = []

    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> None:
        """Find the batch's targets, which do not depend on the other requests."""
        if new := self.new(index, requests):
            self._targets.append(self.editor.optimize_targets(self.llm, self.tokenizer, new, self.layers))

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """Edit all requests, the first 1, 10, 100, ... of them by themselves too, and score."""
        if self._targets:
            everything = type(self._targets[0]).join(self._targets)
            for count in milestones(len(everything.requests)):
                first = self.new_session()
                first.edit_targets(everything.part(slice(count)))
                self.note_drift(first)
            self.session.edit_targets(everything)
        return super().finish(rank, world_size)


@dataclass
class Sequential(_Joint):
    """Requests edited one group after the other, with all earlier edits in place, then scored."""

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
        with self._growth.measured(lambda: len(self.session.requests)):
            self.session.edit(new, len(new))
        after = len(self.session.requests)
        self._passed_a_milestone = any(before < point <= after for point in milestones(10 * after))
        if (cohort := self._cohorts.add(list(self._places)[known:])) is not None:
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
        """Note how the requests edited so far fare, all of them and by cohort."""
        results = self.note_drift(self.session)
        self._cohorts.note(len(results), dict(zip(self._edited(), results, strict=True)))

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


SCHEDULES: dict[str, type[EditSchedule]] = {"independent": Independent, "batch": Batch, "sequential": Sequential}


def milestones(count: int) -> list[int]:
    """The numbers of edits below ``count`` at which drift is looked at: 1, 10, 100, ...

    Example:
        >>> milestones(1000)
        [1, 10, 100]
    """
    return [10**power for power in range(len(str(count))) if 10**power < count]
