"""What a schedule of edits is: when they are made, and on top of what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EditMethod, WeightDelta
from lga_lightning.editing.governor import Governor
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.modules.run_state import RunState
from lga_lightning.results.retention import Cohort, GrowthPoint
from lga_lightning.results.validation_parts import DriftPoint
from lga_lightning.utils.dealing import Deal, alone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        deal: How the work on edits that are made together is shared out; not at all by default.

    Attributes:
        delta: All edits together; None where every request is edited alone.
        drift: Scores of the facts edited so far, or of those drawn of them, after 1, 10, 100, ... edits; the final scores are separate.
        group_size: Number of requests that are edited at once, at most; None for one, or for all.
    """

    joint: ClassVar[bool] = True
    """Whether all requests end up in one edit."""
    dealt: ClassVar[bool] = True
    """Whether a process needs its share of the batches alone; else it needs all of them, in order."""
    resumes: ClassVar[bool] = False
    """Whether a run that was cut off can go on; see :meth:`keep_state`."""

    editor: EditMethod
    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: list[int]
    evaluation: EvaluationConfig
    governor: Governor | None = None
    deal: Deal = alone
    delta: WeightDelta | None = field(default=None, init=False)
    drift: list[DriftPoint] = field(default_factory=list, init=False)
    group_size: int | None = field(default=None, init=False)

    @classmethod  # noqa: B027 - edits alone contradict none
    def check(cls, groups: Sequence[Sequence[EditRequest]]) -> None:
        """Refuse requests that cannot be edited as they will be, before the first is; nothing by default.

        Args:
            groups: All requests, by batch.

        Raises:
            DataError: If two contradict each other.
        """

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
    def edited(self) -> list[EditRequest]:
        """The requests of the edit that is made of all of them together; empty where each has its own."""
        return []

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
class JointSchedule(EditSchedule):
    """Edits in a session; their results are known at the end."""

    def __post_init__(self) -> None:
        self.session = self.new_session()
        self._looks = self.evaluation.teacher_forced()
        self._places: dict[int, EditRequest] = {}

    @property
    def edited(self) -> list[EditRequest]:
        """See :class:`EditSchedule`."""
        return list(self._places.values())

    def new_session(self) -> EditSession:
        """A session on the unedited model."""
        return EditSession(self.editor, self.llm, self.tokenizer, self.layers)

    def new(self, index: Sequence[int], requests: Sequence[EditRequest]) -> list[EditRequest]:
        """Those of a batch that were not there before: the same request twice is one edit."""
        found = {place: request for place, request in zip(index, requests, strict=True) if place not in self._places}
        self._places |= found
        return list(found.values())

    def finish(self, rank: int = 0, world_size: int = 1) -> ScoredEdits | None:
        """Score this process's share of all requests, or of those that are drawn."""
        if not self._places:
            return None
        self.delta = self.session.delta
        mine = self.evaluation.drawn(self._places)[rank::world_size]
        return self.score(mine, [self._places[place] for place in mine], [self.delta] * len(mine))

    def relative_norms(self) -> dict[int, float]:
        """By block, the Frobenius norm of the change over that of the weights."""
        return self.session.relative_norms()

    def ask(self, requests: Sequence[EditRequest], delta: WeightDelta) -> list[list[EvalResult]]:
        """Teacher-forced results of requests with an edit in place."""
        return evaluate(self.llm, self.tokenizer, requests, [delta] * len(requests), self._looks)

    def note_drift(self, session: EditSession, places: Sequence[int]) -> dict[int, list[EvalResult]]:
        """Note how the requests edited so far fare, by teacher-forced scores of those that are drawn.

        Args:
            session: The edits so far.
            places: Positions of their requests in the data set.

        Returns:
            Results by position of the request.
        """
        drawn = self.evaluation.drawn(places)
        results = self.ask([self._places[place] for place in drawn], session.delta)
        self.drift.append(DriftPoint.of(len(places), session.relative_norms(), results))
        return dict(zip(drawn, results, strict=True))


def milestones(count: int) -> list[int]:
    """The numbers of edits below ``count`` at which drift is looked at: 1, 10, 100, ...

    Example:
        >>> milestones(1000)
        [1, 10, 100]
    """
    return [10**power for power in range(len(str(count))) if 10**power < count]
