"""Whether what is asked about edits is short enough for a model, before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.prompts import probe_of
from lga_lightning.evaluation.wild import in_context
from lga_lightning.models.chat import as_asked
from lga_lightning.models.lengths import check_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WAY_OUT = "Shorten the request's prompt, leave the request out, or choose other"


def check_asked_lengths(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    config: EvaluationConfig,
) -> None:
    """Refuse requests whose texts, or what an evaluation makes of them, take more positions than a model has.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer.
        requests: The requests.
        config: What is asked and measured.

    Raises:
        InvalidRequest: Names the first such text, and how long it may be.
    """
    check_lengths(model, tokenizer, requests)
    check_lengths(model, tokenizer, requests, partial(_probes, config), f"It is a probe. {WAY_OUT} --edits.probes.")
    if config.in_the_wild:
        asking, way_out = (
            as_asked(model, tokenizer, config.chat),
            f"It is asked in the wild. {WAY_OUT} --edits.context.",
        )
        check_lengths(model, asking, requests, partial(_in_the_wild, config), way_out)


def _probes(config: EvaluationConfig, request: EditRequest) -> Iterator[tuple[str, str]]:
    """Prompts with the opposite sense, with every answer that is put behind them."""
    for probe in (probe_of(request, group) for group in config.probes):
        answers = probe.answers if probe.alternative is None else (*probe.answers, probe.alternative)
        yield from ((probe.prompt, answer) for answer in answers)


def _in_the_wild(config: EvaluationConfig, request: EditRequest) -> Iterator[tuple[str, str]]:
    """All that the model answers in its own words, and the same in the context."""
    for prompt in (prompt.prompt.rstrip() for prompt in config.prompts(request) if prompt.answers):
        yield prompt, ""
        if config.context.strip():
            yield in_context(prompt, config.context), ""
