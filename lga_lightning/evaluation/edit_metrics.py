"""What edits are scored by: one class a metric, with the words that explain its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lga_lightning.evaluation.metric import EditMetric, Grouped
from lga_lightning.evaluation.own_words import OWN_WORDS
from lga_lightning.evaluation.prompts import FLUENCY, NEIGHBORHOOD, PERPLEXITY, PROBES, EvalPrompt
from lga_lightning.evaluation.responses import Response
from lga_lightning.metrics.accuracy import token_accuracy, unchanged_tokens
from lga_lightning.metrics.counterfact import magnitude, success
from lga_lightning.metrics.text import ngram_entropy

_STILL = (
    "share of {prompts} on which target_new is still the most likely answer, every token of it, teacher-forced; it is wrong there: "
    "lower is better"
)


class TokenAccuracy(Grouped):
    """Share of the first answer's tokens that are predicted right; for locality, that are predicted as before the edit.

    For probes with the opposite sense, whether all of them are: the answer is still the most likely one.
    """

    name = "token"
    protocols: ClassVar[Mapping[str, str]] = {
        "rewrite": "token accuracy of target_new on the prompt, teacher-forced",
        "rephrase": "token accuracy of target_new, teacher-forced, mean over the request's rephrases",
        "portability": "token accuracy of a probe's first answer, teacher-forced, mean over probes, then over kinds",
        "locality": "share of a probe's first answer's tokens at which the prediction is that of the unedited model, "
        "teacher-forced, mean over probes, then over kinds",
        "negation": _STILL.format(
            prompts="negated prompts (It is not true that ...; for questions: ... A wrong answer is)"
        ),
        "contradiction": _STILL.format(
            prompts="prompts behind the new fact and its denial (... No, that is false. ...)"
        ),
    }

    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """Shares."""
        if before.predictions is None or after.predictions is None or before.labels is None:
            return None
        first, second, labels = (row.unsqueeze(0) for row in (before.predictions, after.predictions, before.labels))
        if prompt.family == "locality":
            return 1.0, unchanged_tokens(first, second, labels).item()
        sides = token_accuracy(first, labels).item(), token_accuracy(second, labels).item()
        return (float(sides[0] == 1), float(sides[1] == 1)) if prompt.family in PROBES else sides


class NegativeLogLikelihood(Grouped):
    """Mean negative log-likelihood of the first answer, or of the passage, in nats a token."""

    name = "nll"
    protocols: ClassVar[Mapping[str, str]] = {
        PERPLEXITY: "exp of the mean over requests of the mean negative log-likelihood a token of one passage of plain text"
    }

    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """Nats a token."""
        return None if math.isnan(before.nll) else (before.nll, after.nll)


class Comparison(Grouped):
    """A score of CounterFact: the first answer against the alternative."""

    function: Callable[[Tensor, Tensor], Tensor]

    def applies(self, prompt: EvalPrompt) -> bool:
        """To prompts with an alternative."""
        return prompt.alternative is not None

    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """The function of the two negative log-likelihoods, in float64."""
        nll = torch.tensor([before.nll, after.nll], dtype=torch.float64)
        alternative = torch.tensor([before.alternative_nll, after.alternative_nll], dtype=torch.float64)
        one, two = self.function(nll, alternative).tolist()
        return one, two


def _compared(protocol: str) -> dict[str, str]:
    """A protocol in the words of the groups that are compared."""
    new = {"answer": "target_new", "alternative": "target_old"}
    return {
        "rewrite": protocol.format(where="prompts", **new),
        "rephrase": protocol.format(where="rephrases", **new),
        NEIGHBORHOOD: protocol.format(
            where="neighborhood probes", answer="the probe's answer", alternative="target_new"
        ),
    }


class Success(Comparison):
    """Whether the first answer is more likely than the alternative: ES, PS and NS."""

    name = "success"
    function = staticmethod(success)
    protocols = _compared(
        "share of {where} on which {answer} has the lower mean negative log-likelihood a token than {alternative}"
    )


class Magnitude(Comparison):
    """By how much the first answer is more likely than the alternative: EM, PM and NM."""

    name = "magnitude"
    function = staticmethod(magnitude)
    protocols = _compared(
        "p({answer}) - p({alternative}) on {where}, with p = exp(-mean negative log-likelihood a token)"
    )


class Fluency(EditMetric):
    """How little the model repeats itself, in bits."""

    name = "fluency"
    protocol = (
        "weighted entropy in bits of the 2- and 3-grams (weights 2/3 and 4/3, then mean) of the words in 100 tokens that the "
        "model continues the generation prompts (without any: the prompt) with, greedily"
    )

    def applies(self, prompt: EvalPrompt) -> bool:
        """To continuations."""
        return prompt.group == FLUENCY

    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """Bits."""
        if before.text is None or after.text is None:
            return None
        return ngram_entropy(before.text), ngram_entropy(after.text)


BUILT_IN: tuple[EditMetric, ...] = (
    TokenAccuracy(),
    *(metric() for metric in OWN_WORDS),
    NegativeLogLikelihood(),
    Success(),
    Magnitude(),
    Fluency(),
)
"""The metrics that are always taken; their order is that of the columns of ``requests.parquet``."""
