"""The general suite as a run asks it: about bundled facts that its requests leave alone, and plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lga_lightning.data.loading import load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import WeightDelta
from lga_lightning.evaluation.general import (
    GeneralSuite,
    compare_scores,
    held_out_facts,
    plain_passages,
    questions_of,
)
from lga_lightning.reports.wording import counted
from lga_lightning.results.ability import AbilityResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOGETHER = "all edits in place"


def suite_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> tuple[GeneralSuite, str]:
    """The suite for a run, and what it asks, in words.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer.
        requests: The requests of the run.
    """
    facts = load_requests().requests
    held_out = held_out_facts(facts, requests)
    suite = GeneralSuite(model, tokenizer, questions_of(held_out.facts, facts), plain_passages())
    questions, passages = counted(len(suite.questions), "question"), counted(len(suite.passages), "passage")
    return suite, f"{questions} about {held_out.rule}, and {passages} of plain text"


def ask_general(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    delta: WeightDelta,
    resamples: int = 1000,
) -> AbilityResult:
    """What an edit leaves of a model's general ability.

    Args:
        model: The unedited model; no weight is touched.
        tokenizer: Its fast tokenizer.
        requests: The edited facts, which are not asked about.
        delta: The edit.
        resamples: Bootstrap resamples for the intervals.
    """
    suite, asked = suite_for(model, tokenizer, requests)
    return AbilityResult.of(asked, TOGETHER, compare_scores(suite(range(len(suite)), delta), resamples))
