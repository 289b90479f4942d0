"""Score edits without making them: every request's prompts, before and after the edit, many requests in one batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.delta import WeightDelta, attached
from lga_lightning.evaluation.edit_metrics import BUILT_IN
from lga_lightning.evaluation.judge import Judge, judge_prompt
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.evaluation.prompts import FAMILIES, FLUENCY, PERPLEXITY, PROBES, EvalPrompt, probe_of, prompts_of
from lga_lightning.evaluation.protocols import NEUTRAL_TEXT, PROTOCOLS, ProtocolName
from lga_lightning.evaluation.responses import Response, respond
from lga_lightning.evaluation.results import EvalResult, compare_responses, mean_scores
from lga_lightning.evaluation.wild import speak_freely
from lga_lightning.exceptions import SettingError
from lga_lightning.models.cached_prompts import Attach, unedited
from lga_lightning.models.chat import as_asked
from lga_lightning.models.hooks import frozen
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WIDEST = 16  # edits of a larger rank are not gathered row by row, but attached to all their rows at once
# what result files have under these names beside, or in place of, a metric
TAKEN = {
    *(metric.name for metric in BUILT_IN),
    *FAMILIES,
    *PROBES,
    PERPLEXITY,
    "counterfact",
    "said",
    "before",
    "after",
}


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked and measured. Teacher-forced scores are always taken.

    Args:
        generate: Let the model answer every prompt in its own words, before and after. Token scores alone flatter.
        max_new_tokens: Where such an answer is cut at the latest; None for what is usual in the protocol, 50 or 200.
        fluency: Let it also continue every request's generation prompts (its prompt, where it has none) by 100 tokens, and
            measure how repetitive that is.
        passages: Plain texts, on one of which each request's edit is scored: the drift of perplexity. Empty for no such score.
        max_rows: Prompts a batch.
        families: Which of a request's prompts are asked: some of rewrite, rephrase, portability and locality.
        metrics: Metrics beside the built-in ones.
        protocol: How the model is let speak: ``completion`` up to the end of its first line or sentence; ``wild`` as its users let
            it, asked in its chat template if it chats, and to its own end.
        chat: In the protocol ``wild``, whether prompts are asked in the chat template; None where the model is one that chats.
        context: In the protocol ``wild``, a text before every prompt, which is asked a second time with it; "" for once alone.
        judge: Says of what the model said, whether it states the answer.
        probes: Which prompts with the opposite sense are asked, too: some of ``negation`` and ``contradiction``.

    Raises:
        SettingError: If a number is below 1, a family, a probe or the protocol is unknown, a metric has no name of its own or no protocol,
            or the model is to say nothing and that is to be scored.
    """

    generate: bool = True
    max_new_tokens: int | None = None
    fluency: bool = False
    passages: tuple[str, ...] = ()
    max_rows: int = 64
    families: tuple[str, ...] = FAMILIES
    metrics: tuple[EditMetric, ...] = ()
    protocol: ProtocolName = "completion"
    chat: bool | None = None
    context: str = NEUTRAL_TEXT
    judge: Judge | None = None
    probes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise SettingError(f"`protocol` must be one of {list(PROTOCOLS)}, got {self.protocol!r}.")
        check_at_least_one(max_new_tokens=self.limit, max_rows=self.max_rows)
        if not self.generate and (self.in_the_wild or self.judge is not None):
            wanted = "The protocol 'wild' scores" if self.in_the_wild else "A judge judges"
            raise SettingError(
                f"{wanted} what the model says, and with `generate` false it says nothing. Leave that out."
            )
        if not set(self.families) <= set(FAMILIES):
            raise SettingError(f"`families` must be some of {list(FAMILIES)}, got {list(self.families)}.")
        if not set(self.probes) <= set(PROBES):
            raise SettingError(f"`probes` must be some of {list(PROBES)}, got {list(self.probes)}.")
        taken = set(TAKEN)
        for metric in self.metrics:
            _check_metric(metric, taken)
            taken.add(metric.name)

    @property
    def in_the_wild(self) -> bool:
        """Whether the model is let speak to its own end."""
        return self.protocol == "wild"

    @property
    def limit(self) -> int:
        """Where an answer of the model's own is cut at the latest, in tokens."""
        return PROTOCOLS[self.protocol].max_new_tokens if self.max_new_tokens is None else self.max_new_tokens

    def teacher_forced(self) -> EvaluationConfig:
        """The same without anything that the model says by itself: quick, for looks in between."""
        return replace(self, generate=False, fluency=False, protocol="completion", judge=None)

    def settings(self) -> dict[str, Any]:
        """How the model was let speak, and who judges it, for result files."""
        if not self.generate:
            return {"generate": False}
        found: dict[str, Any] = {"protocol": self.protocol, "max_new_tokens": self.limit}
        found |= {"context": self.context} if self.in_the_wild else {}
        return found | ({"judge": self.judge.settings()} if self.judge is not None else {})

    def prompts(self, request: EditRequest) -> list[EvalPrompt]:
        """All prompts to which a request's edit is to respond."""
        prompts = [prompt for prompt in prompts_of(request) if prompt.family in self.families]
        prompts += [probe_of(request, group) for group in dict.fromkeys(self.probes)]
        if self.fluency:
            prompts += [EvalPrompt(FLUENCY, text, ()) for text in request.generation_prompts or (request.prompt,)]
        if self.passages:  # the same one in every run, whatever the batch and the process
            number = zlib.crc32(f"{request.prompt}\n{request.target_new}".encode())
            prompts.append(EvalPrompt(PERPLEXITY, self.passages[number % len(self.passages)], ()))
        return prompts


def _check_metric(metric: EditMetric, taken: Iterable[str]) -> None:
    """Refuse an additional metric that result files could not list."""
    if not isinstance(metric, EditMetric):
        raise SettingError(f"`metrics` must hold objects of classes that derive from EditMetric, got {metric!r}.")
    kind, name = type(metric).__name__, getattr(metric, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise SettingError(f"The `name` of {kind} must be letters, digits and underscores, got {name!r}.")
    if name in taken:
        raise SettingError(f"The `name` of {kind} is {name!r}, which results have already. Choose another one.")
    if not getattr(metric, "protocol", None):
        raise SettingError(f"{kind} has no `protocol`. Say in one sentence how its number comes about.")


class Evaluator:
    """Scores edits of some requests without making them, as often as there are edits to compare.

    No weight is touched: a prompt that is answered by an edited model is a row of a batch which runs with the edit of its
    request attached. The unedited model's responses do not depend on the edits: the first call finds them, in the same
    batches, and the calls after it run the edited side alone.

    Args:
        model: A causal language model. It must stay as it is from call to call.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        config: What is asked and measured; by default all but fluency and perplexity.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        config: EvaluationConfig | None = None,
    ) -> None:
        self.model, self.tokenizer, self.requests = model, tokenizer, requests
        self.config = config or EvaluationConfig()
        self._rows = [
            (number, prompt) for number, request in enumerate(requests) for prompt in self.config.prompts(request)
        ]
        self._before: dict[int, Response] = {}  # by row

    def __call__(self, deltas: Sequence[WeightDelta]) -> list[list[EvalResult]]:
        """Compare the model that has an edit with the one that has none.

        Args:
            deltas: N edits, one a request; the same object for requests that are edited together.

        Returns:
            N lists of results, one result a prompt, in the order of :meth:`EvaluationConfig.prompts`.

        Raises:
            ValueError: If there are not as many edits as requests.
        """
        if len(deltas) != len(self.requests):
            raise ValueError(f"Expected an edit for each of the {len(self.requests)} requests, got {len(deltas)}.")
        edits = [deltas[number] for number, _ in self._rows]
        narrow: list[int] = []
        wide: dict[int, list[int]] = {}
        for row, delta in enumerate(edits):
            if max(delta.ranks.values(), default=0) > WIDEST:
                wide.setdefault(id(delta), []).append(row)
            else:
                narrow.append(row)
        after: dict[int, Response] = {}
        with frozen(self.model):
            for batch in self._batches(narrow):
                after |= self._respond_by_row(batch, [edits[row] for row in batch])
            for rows in wide.values():
                with attached(self.model, [edits[rows[0]]]):
                    for batch in self._batches(rows):
                        after |= zip(batch, self._respond(batch), strict=True)
            for batch in self._batches(row for row in range(len(edits)) if row not in self._before):
                self._before |= zip(batch, self._respond(batch), strict=True)
        self._before, after = self._judged(self._before), self._judged(after)
        metrics = (*BUILT_IN, *self.config.metrics)
        results: list[list[EvalResult]] = [[] for _ in self.requests]
        for row, (number, prompt) in enumerate(self._rows):
            results[number].append(compare_responses(prompt, self._before[row], after[row], metrics))
        return results

    def _batches(self, rows: Iterable[int]) -> Iterator[list[int]]:
        """Prompts of one kind and of similar length; fewer where answers are long, or every token of a passage has logits."""
        kinds: dict[str, list[int]] = {}
        for row in rows:
            group = self._rows[row][1].group
            kinds.setdefault(group if group in (FLUENCY, PERPLEXITY) else "", []).append(row)
        for kind, members in kinds.items():
            members.sort(key=lambda row: len(self._rows[row][1].prompt))
            step = max(1, self.config.max_rows // (8 if kind == PERPLEXITY else 2 if self.config.in_the_wild else 1))
            yield from (members[start : start + step] for start in range(0, len(members), step))

    def _respond_by_row(self, batch: list[int], edits: Sequence[WeightDelta]) -> dict[int, Response]:
        """Responses with each row's edit; in the same passes those of the unedited model, where there are none yet."""
        distinct = {id(delta): delta for delta in edits}
        deltas, numbers = list(distinct.values()), {key: number for number, key in enumerate(distinct)}
        rows, which = batch, [numbers[id(delta)] for delta in edits]
        if not self._before.keys() >= set(batch):
            rows, which = batch * 2, [len(deltas)] * len(batch) + which
            deltas.append(WeightDelta({}))
        edit = torch.tensor(which)
        responses = self._respond(rows, lambda places: attached(self.model, deltas, edit[places]))
        if len(rows) > len(batch):
            self._before |= zip(batch, responses, strict=False)
        return dict(zip(batch, responses[-len(batch) :], strict=True))

    def _respond(self, rows: Sequence[int], attach: Attach = unedited) -> list[Response]:
        config, prompts = self.config, [self._rows[row][1] for row in rows]
        tokens = config.limit if config.generate and not config.in_the_wild else None
        responses = respond(self.model, self.tokenizer, prompts, attach, tokens)
        if not config.in_the_wild or not prompts[0].answers:  # fluency and plain text are what they are
            return responses
        asking = as_asked(self.model, self.tokenizer, config.chat)
        return speak_freely(self.model, asking, prompts, responses, attach, config.limit, config.context.strip())

    def _judged(self, responses: dict[int, Response]) -> dict[int, Response]:
        """Responses with a judge's verdicts on what was said to prompts with answers, where there is a judge."""
        if self.config.judge is None:
            return responses
        asked = {}
        for row, response in responses.items():
            prompt = self._rows[row][1]
            if prompt.answers and response.text is not None and response.judgement is None:
                asked[row] = judge_prompt(prompt.prompt, prompt.answers, response.text)
        judgements = zip(asked, self.config.judge([*asked.values()]), strict=True)
        return responses | {row: replace(responses[row], judgement=judgement) for row, judgement in judgements}


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    deltas: Sequence[WeightDelta],
    config: EvaluationConfig | None = None,
) -> list[list[EvalResult]]:
    """Score one edit a request, before and after; see :class:`Evaluator`.

    Args:
        model: A causal language model; no weight is touched.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        deltas: N edits; the same object for requests that are edited together.
        config: What is asked and measured; by default all but fluency and perplexity.

    Returns:
        N lists of results, one result a prompt, in the order of :meth:`EvaluationConfig.prompts`.
    """
    return Evaluator(model, tokenizer, requests, config)(deltas)


def prompt_columns(requests: Sequence[EditRequest]) -> list[str]:
    """The groups of prompts that occur: rewrite, rephrase, and every kind of portability and locality, in this order."""
    groups = {prompt.group: prompt.family for request in requests for prompt in prompts_of(request)}
    return sorted(groups, key=lambda group: (FAMILIES.index(groups[group]), group))


def evaluate_each(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    deltas: Sequence[WeightDelta],
    columns: Sequence[str],
    max_rows: int = 64,
) -> Tensor:
    """Teacher-forced token scores alone, as a table: quick, for comparing edits with each other.

    Args:
        model: A causal language model; no weight is touched.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        deltas: N edits.
        columns: C groups of prompts, as :func:`prompt_columns` gives them.
        max_rows: Prompts a batch.

    Returns:
        [N, 2, C] before and after: token accuracy, and for locality the share of unchanged predictions (1 before).
        NaN where a request has no such prompt.
    """
    results = evaluate(model, tokenizer, requests, deltas, EvaluationConfig(generate=False, max_rows=max_rows))
    return torch.stack([mean_scores(results, column, "token") for column in columns], 2)
