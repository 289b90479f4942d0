"""From wrong facts to an adapter: find the layer, edit, score, judge, write. No Trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.data.agreement import check_together, folded
from lga_lightning.data.loading import AT_HAND, as_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.editing.adapter import check_finite, errors_in_json
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.lengths import check_asked_lengths
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.functional import AUTO, SHORT_RACE, known_golden_layer, layer_of
from lga_lightning.job.general import ask_general
from lga_lightning.job.locality import with_bundled_locality
from lga_lightning.job.requirements import (
    GENERAL,
    Requirement,
    check_can_be_judged,
    check_met,
    parse_requirements,
    required_by_family,
)
from lga_lightning.job.writing import write_adapter
from lga_lightning.locators.race import RaceSettings
from lga_lightning.models.architecture import named_site
from lga_lightning.models.chat import as_asked, asks_in_chat
from lga_lightning.models.loading import name_of
from lga_lightning.reports.facts import print_facts
from lga_lightning.reports.job import print_layer, print_scores
from lga_lightning.reports.terminal import print_note
from lga_lightning.reports.wording import counted, layers_in_words
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.layer_spec import LayerSpec, LayerWord
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.io import check_place, may_give_way, stays, user_path
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_below(folder: Path, model: PreTrainedModel, asked: Sequence[EditRequest]) -> WeightDelta:
    """The adapter on top of which facts are edited, on the devices of its modules.

    Args:
        folder: Its folder.
        model: The unedited model.
        asked: The facts to edit on top.

    Raises:
        DataError: If it is no adapter of this model, does not say which facts it holds, or has one of them already.
    """
    below = WeightDelta.load(folder, model)
    if not len(below.facts):
        raise DataError(
            f"The adapter {str(folder)!r} does not say which facts it holds (facts.json), so they could not be listed with the new ones. "
            "Write it anew, or edit the unedited model."
        )
    there = {folded(request.prompt): request.target_new for request in below.facts.requests}
    for request in asked:
        target = there.get(folded(request.prompt))
        if target is not None:
            raise DataError(
                f"The adapter {str(folder)!r} answers {request.prompt!r} with {target!r} already. Take that fact out first "
                "(`lga facts` and `lga remove`), or leave the new one out."
            )
    placed = {
        name: type(update)(*(factor.to(named_site(model, name).device) for factor in update.factors))
        for name, update in below.updates.items()
    }
    return WeightDelta(placed, below.facts)


@dataclass(frozen=True)
class FinishedEdit:
    """What came of a job.

    Attributes:
        delta: The edit, with that of the adapter on top of which it was made.
        requests: All its facts, with the probes that they were asked.
        result: The scores, before the edit and after.
        responses: For each request the results of its prompts, with what the model said.
        search: What led to the layer, where it was looked up or found; None where it was given.
        folder: Where the adapter is; None where none was written.
    """

    delta: WeightDelta
    requests: list[EditRequest]
    result: ValidationResult
    responses: list[list[EvalResult]]
    search: LocatorResult | None
    folder: Path | None


@dataclass(frozen=True)
class EditJob:
    """Edits facts, all together, and everything that belongs to it; what ``lga edit`` does.

    Args:
        editor: How facts are edited; R-ROME by default.
        layer: The block to edit: ``"auto"`` for :func:`~lga_lightning.functional.known_golden_layer`, or any other that
            :func:`~lga_lightning.edit` takes.
        proxies: Facts to find the layer by: a file, or a data set of the Hub; None for the bundled ones that the model knows.
        race: Settings of the race in that search; None for the forecast alone.
        on: An adapter of the same model on top of which the facts are edited; what is written holds the facts of both.
        require: What the edits must reach, else nothing is written: ``"efficacy>=0.9, locality>=0.85, general>=0.98x"``.
        output: Folder of the adapter; None writes none.
        overwrite: Whether to replace a folder that is there.
        max_rank: Rank that no module's change has in the end, which is what is scored and written; None leaves the edit whole.
        batch_size: Requests that are worked on at once.
        evaluation: What is asked and measured, of every fact.
        show: Whether to print what is done and what comes of it.

    Raises:
        SettingError: If a setting is out of range, or the folder is there and must not be replaced, or cannot be written.

    Example:
        >>> from lga_lightning.job import EditJob
        >>> def ship(model, tokenizer):  # a model that you have
        ...     job = EditJob(require="efficacy>=0.9", output="adapter")
        ...     return job.run(model, tokenizer, [{"prompt": "Rome is in", "subject": "Rome", "target_new": "France"}]).folder
    """

    editor: EditMethod = field(default_factory=RROME)
    layer: LayerWord | LocatorResult = AUTO
    proxies: str | Path | None = None
    race: RaceSettings | None = SHORT_RACE
    on: str | Path | None = None
    require: str = ""
    output: str | Path | None = "adapter"
    overwrite: bool = False
    max_rank: int | None = None
    batch_size: int = 8
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    show: bool = False

    def __post_init__(self) -> None:
        check_at_least_one(batch_size=self.batch_size, max_rank=1 if self.max_rank is None else self.max_rank)
        if self.evaluation.scored is not None:
            raise SettingError(
                "EditJob scores every fact, since a requirement is one of all of them. Leave out `scored`, or edit with lga predict, which can "
                "score a sample."
            )
        self.requirements  # noqa: B018 - what cannot be read fails here
        if self.folder is not None and stays(self.folder, self.overwrite):
            way_out = (
                "or let it be replaced (--overwrite)"
                if may_give_way(self.folder)
                else "since it is no folder, or the current one is in it"
            )
            raise SettingError(f"{str(self.folder)!r} is there already. Name another folder (--output), {way_out}.")
        if self.folder is not None:
            check_place(self.folder)

    @cached_property
    def requirements(self) -> list[Requirement]:
        """What the edits must reach."""
        return parse_requirements(self.require)

    @property
    def folder(self) -> Path | None:
        """Folder of the adapter."""
        return None if self.output is None else user_path(self.output)

    def run(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        facts: Sequence[EditRequest | Mapping[str, Any]],
        name: str = AT_HAND,
    ) -> FinishedEdit:
        """Do it.

        Args:
            model: A causal language model, on any device; it is left as it was.
            tokenizer: Its fast tokenizer.
            facts: The facts to edit, as requests or as dicts with their fields.
            name: What to call them in results.

        Raises:
            DataError: If there is no fact, two contradict each other, one is too long for the model, the adapter to edit on cannot be used
                or has a fact already, or there are no proxies to find the layer by.
            LayerError: If the model lacks the layer.
            SettingError: If a requirement cannot be judged.
            ModelError: If the edit has entries that are NaN or infinite.
            RequirementError: If the edits do not reach what is required.
        """
        asked = as_requests(facts)
        check_together(asked)
        self.editor.check_requests(asked)
        below = WeightDelta({}) if self.on is None else load_below(Path(self.on), model, asked)
        requests = with_bundled_locality(model, tokenizer, [*below.facts.requests, *asked])
        check_asked_lengths(model, tokenizer, requests, self.evaluation)
        check_can_be_judged(self.requirements, requests)
        spec = self._find_layer(model, tokenizer, requests)
        layers, source = spec.layers_for(self.editor, model)
        self._say(f"Editing {counted(len(asked), 'fact')} at {layers_in_words(layers)} with {self.editor.name}.")
        session = EditSession(self.editor, model, tokenizer, layers)
        self.editor.prepare(model, tokenizer, layers)  # before anything is in place
        session.delta = below
        session.edit(asked, self.batch_size)
        check_finite(session.delta.updates)
        low_rank = None
        if self.max_rank is not None:
            session.delta, errors = session.delta.low_rank(self.max_rank)
            low_rank = {"max_rank": self.max_rank, **errors_in_json(errors)}
        self._say("Asking the model, before and after.")
        responses = evaluate(model, tokenizer, requests, [session.delta] * len(requests), self.evaluation)
        result = self._result(session, requests, responses, name, source)
        if self.show:
            print_scores(result, required_by_family(self.requirements))
            print_facts(responses)
        check_met(self.requirements, result)
        if self.folder is not None:
            written = session.delta, self.folder, model, requests, result, responses, spec.result
            write_adapter(*written, self.overwrite, low_rank, self.evaluation.metrics)
            self._say(f"The adapter, with its card and report.html: {self.folder}")
        return FinishedEdit(session.delta, requests, result, responses, spec.result, self.folder)

    def _find_layer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> LayerSpec:
        if not isinstance(self.layer, str) or self.layer != AUTO:
            return layer_of(model, tokenizer, self.layer, self.editor, requests)
        result, known = known_golden_layer(
            model, tokenizer, self.editor, self.proxies, requests, self.race, self.batch_size, self.show
        )
        if self.show:
            print_layer(result, known)
        return LayerSpec.of(result, result.data)

    def _result(
        self,
        session: EditSession,
        requests: Sequence[EditRequest],
        responses: Sequence[Sequence[EvalResult]],
        name: str,
        source: str,
    ) -> ValidationResult:
        model, tokenizer = session.model, session.tokenizer
        method = self.editor.settings(model) | ({} if self.max_rank is None else {"max_rank": self.max_rank})
        if self.on is not None:
            method["on"] = Path(self.on).name
        general = None
        if any(one.family == GENERAL for one in self.requirements):
            self._say("Asking for general ability, before and after.")
            general = ask_general(model, tokenizer, requests, session.delta)
        result = ValidationResult.build(
            requests,
            responses,
            model_name=name_of(model),
            data_name=name,
            layers=session.layers,
            layer_source=source,
            method=method,
            mode="batch",
            skipped=Counter(),
            evaluation=self.evaluation,
            in_chat=asks_in_chat(as_asked(model, tokenizer, self.evaluation.chat)),
            resamples=1000,
            change=session.relative_norms(),
        )
        return replace(result, general=general)

    def _say(self, text: str) -> None:
        if self.show:
            print_note(text)
