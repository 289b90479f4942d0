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

    editor: EditMethod
    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: list[int]
    evaluation: EvaluationConfig
    governor: Governor | None = None
    delta: WeightDelta | None = field(default=None, init=False)
    drift: list[DriftPoint] = field(default_factory=list, init=False)
    group_size: int | None = field(default=None, init=False)

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
    """Every request edited alone, on the unedited model."""

    joint: ClassVar[bool] = False

    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> ScoredEdits:
        """Edit and score the batch."""
        deltas = self.editor.compute_each(self.llm, self.tokenizer, requests, self.layers)
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

    def note_drift(self, session: EditSession) -> None:
        """How the requests edited so far fare, by teacher-forced scores."""
        deltas = [session.delta] * len(session.requests)
        results = evaluate(self.llm, self.tokenizer, session.requests, deltas, self.evaluation.teacher_forced())
        self.drift.append(DriftPoint.of(len(session.requests), session.relative_norms(), results))


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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._passed_a_milestone = False
        self._left_out = 0
        self._watch: SessionWatch | None = None
        if self.governor is not None:
            self._watch = SessionWatch(self.governor, self.llm, self.tokenizer, self.evaluation.passages)

    def step(self, index: Sequence[int], requests: Sequence[EditRequest]) -> None:
        """Edit the batch on top of what was edited before; nothing once the governor has stopped the run."""
        new = self.new(index, requests)
        if not new or (self._watch is not None and self._watch.stop is not None):
            return
        if self._passed_a_milestone:  # not before now: after the last group, the final scores serve
            self.note_drift(self.session)
        before = len(self.session.requests)
        self.group_size = max(self.group_size or 0, len(new))
        self.session.edit(new, len(new))
        after = len(self.session.requests)
        self._passed_a_milestone = any(before < point <= after for point in milestones(10 * after))
        if self._watch is not None:
            self._watch.after_group(self.session)

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """Score the requests whose edits are kept."""
        if self._watch is not None:
            self._watch.finish(self.session)
            kept = len(self.session.requests)
            self._left_out = len(self._places) - kept
            self._places = dict(islice(self._places.items(), kept))
            self.drift = [point for point in self.drift if point.edits < kept]
        return super().finish(rank, world_size)

    def governed(self) -> dict[str, Any] | None:
        """The limits, the looks, and why the run was stopped."""
        return None if self._watch is None else self._watch.report(self._left_out)


SCHEDULES: dict[str, type[EditSchedule]] = {"independent": Independent, "batch": Batch, "sequential": Sequential}


def milestones(count: int) -> list[int]:
    """The numbers of edits below ``count`` at which drift is looked at: 1, 10, 100, ...

    Example:
        >>> milestones(1000)
        [1, 10, 100]
    """
    return [10**power for power in range(len(str(count))) if 10**power < count]
