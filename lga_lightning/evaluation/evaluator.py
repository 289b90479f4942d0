"""Score edits without making them: every request's prompts, before and after the edit, many requests in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lga_lightning.data.agreement import folded
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.attaching import attached
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.edit_metrics import BUILT_IN
from lga_lightning.evaluation.judge import judge_prompt
from lga_lightning.evaluation.prompts import FLUENCY, PERPLEXITY, EvalPrompt
from lga_lightning.evaluation.responses import Response, respond
from lga_lightning.evaluation.results import EvalResult, compare_responses
from lga_lightning.evaluation.wild import speak_freely
from lga_lightning.models.cached_prompts import Attach, unedited
from lga_lightning.models.chat import as_asked
from lga_lightning.models.hooks import frozen
from lga_lightning.utils.progress import with_bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WIDEST = 16  # edits of a larger rank are not gathered row by row, but attached to all their rows at once


class Evaluator:
    """Scores edits of some requests without making them, as often as there are edits to compare.

    No weight is touched: a prompt that is answered by an edited model is a row of a batch which runs with the edit of its
    request attached. The unedited model's responses do not depend on the edits: the first call finds them, in the same
    batches, and the calls after it run the edited side alone. A config that keeps them (``unedited``) spares other evaluators
    of the same model, too.

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
        asked = [self.config.prompts(request) for request in requests]
        self._prompts = [prompt for prompts in asked for prompt in prompts]  # a row each
        self._owners = [number for number, prompts in enumerate(asked) for _ in prompts]
        self._before = {} if self.config.unedited is None else self.config.unedited

    def __call__(self, deltas: Sequence[WeightDelta]) -> list[list[EvalResult]]:
        """Compare the model that has an edit with the one that has none.

        Args:
            deltas: N edits, one a request; the same object for requests that are edited together.

        Returns:
            N lists of results, one result a prompt, in the order of :meth:`EvaluationConfig.prompts`. Locality probes with the prompt of
            a fact that the same edit holds among others are left out: what is said to them is meant to change.

        Raises:
            ValueError: If there are not as many edits as requests.
        """
        if len(deltas) != len(self.requests):
            raise ValueError(f"Expected an edit for each of the {len(self.requests)} requests, got {len(deltas)}.")
        edits = [deltas[number] for number in self._owners]
        narrow: list[int] = []
        wide: dict[int, list[int]] = {}
        for row, delta in self._asked(edits):
            if max(delta.ranks.values(), default=0) > WIDEST:
                wide.setdefault(id(delta), []).append(row)
            else:
                narrow.append(row)
        after: dict[int, Response] = {}
        with frozen(self.model):
            for batch in with_bar([*self._batches(narrow)], "Scoring"):
                after |= self._respond_by_row(batch, [edits[row] for row in batch])
            for rows in wide.values():
                with attached(self.model, [edits[rows[0]]]):
                    for batch in with_bar([*self._batches(rows)], "Scoring"):
                        after |= zip(batch, self._respond(batch), strict=True)
            asked = {row: self._prompts[row] for row in sorted(after)}
            unasked = {prompt: row for row, prompt in asked.items() if prompt not in self._before}
            for batch in with_bar([*self._batches(unasked.values())], "Scoring the unedited model"):
                self._keep(batch, self._respond(batch))
        distinct = [*dict.fromkeys(asked.values())]
        self._before |= zip(
            distinct, self._judged(distinct, [self._before[prompt] for prompt in distinct]), strict=True
        )
        said = self._judged([*asked.values()], [after[row] for row in asked])
        metrics = (*BUILT_IN, *self.config.metrics)
        results: list[list[EvalResult]] = [[] for _ in self.requests]
        for (row, prompt), response in zip(asked.items(), said, strict=True):
            results[self._owners[row]].append(compare_responses(prompt, self._before[prompt], response, metrics))
        return results

    def _asked(self, edits: Sequence[WeightDelta]) -> Iterator[tuple[int, WeightDelta]]:
        """Rows with their edits, but locality probes about facts that these hold themselves."""
        facts = {key: delta.facts.requests for key, delta in {id(delta): delta for delta in edits}.items()}
        edited = {key: {folded(fact.prompt) for fact in several} for key, several in facts.items() if len(several) > 1}
        for row, (prompt, delta) in enumerate(zip(self._prompts, edits, strict=True)):
            if prompt.family != "locality" or folded(prompt.prompt) not in edited.get(id(delta), ()):
                yield row, delta

    def _batches(self, rows: Iterable[int]) -> Iterator[list[int]]:
        """Prompts of one kind and of similar length; fewer where answers are long, or every token of a passage has logits."""
        kinds: dict[str, list[int]] = {}
        for row in rows:
            group = self._prompts[row].group
            kinds.setdefault(group if group in (FLUENCY, PERPLEXITY) else "", []).append(row)
        for kind, members in kinds.items():
            members.sort(key=lambda row: self._prompts[row].length)
            step = max(1, self.config.max_rows // (8 if kind == PERPLEXITY else 2 if self.config.in_the_wild else 1))
            yield from (members[start : start + step] for start in range(0, len(members), step))

    def _respond_by_row(self, batch: list[int], edits: Sequence[WeightDelta]) -> dict[int, Response]:
        """Responses with each row's edit; in the same passes those of the unedited model, where there are none yet."""
        distinct = {id(delta): delta for delta in edits}
        deltas, numbers = list(distinct.values()), {key: number for number, key in enumerate(distinct)}
        rows, which = batch, [numbers[id(delta)] for delta in edits]
        if not all(self._prompts[row] in self._before for row in batch):
            rows, which = batch * 2, [len(deltas)] * len(batch) + which
            deltas.append(WeightDelta({}))
        edit = torch.tensor(which)
        responses = self._respond(rows, lambda places: attached(self.model, deltas, edit[places]))
        if len(rows) > len(batch):
            self._keep(batch, responses[: len(batch)])
        return dict(zip(batch, responses[-len(batch) :], strict=True))

    def _respond(self, rows: Sequence[int], attach: Attach = unedited) -> list[Response]:
        config, prompts = self.config, [self._prompts[row] for row in rows]
        tokens = config.limit if config.generate and not config.in_the_wild else None
        responses = respond(self.model, self.tokenizer, prompts, attach, tokens)
        if not config.in_the_wild or not prompts[0].answers:  # fluency and plain text are what they are
            return responses
        asking = as_asked(self.model, self.tokenizer, config.chat)
        return speak_freely(self.model, asking, prompts, responses, attach, config.limit, config.context.strip())

    def _keep(self, batch: Sequence[int], responses: Sequence[Response]) -> None:
        """Keep what the unedited model responds."""
        self._before |= zip((self._prompts[row] for row in batch), responses, strict=True)

    def _judged(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[Response]:
        """Responses with a judge's verdicts on what was said to prompts with answers, where there is a judge."""
        judged = [*responses]
        if self.config.judge is None:
            return judged
        asked = {}
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            if prompt.answers and response.text is not None and response.judgement is None:
                asked[row] = judge_prompt(prompt.prompt, prompt.answers, response.text)
        for row, judgement in zip(asked, self.config.judge([*asked.values()]), strict=True):
            judged[row] = replace(judged[row], judgement=judgement)
        return judged


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
        N lists of results, as :class:`Evaluator` gives them.
    """
    return Evaluator(model, tokenizer, requests, config)(deltas)
