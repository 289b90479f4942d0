"""What a model is asked about an edit: every prompt of a request, with its answers, in named groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lga_lightning.data.requests import EditRequest

FAMILIES = ("rewrite", "rephrase", "portability", "locality")
NEIGHBORHOOD = "locality.neighborhood"
FLUENCY = "fluency"
PERPLEXITY = "perplexity"
ARTICLES = ("A", "An", "The")


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt about an edit.

    Attributes:
        group: ``rewrite``, ``rephrase``, ``portability.<kind>`` or ``locality.<kind>``; a key of ``PROBES``; ``fluency`` (continue the prompt) and
            ``perplexity`` (the prompt is a plain text) have no answers.
        prompt: Text to be continued.
        answers: Accepted answers, the preferred one first.
        alternative: The answer that the first one should beat in the CounterFact scores; None where nothing is compared.
    """

    group: str
    prompt: str
    answers: tuple[str, ...]
    alternative: str | None = None

    @property
    def length(self) -> int:
        """Characters of the prompt and its longest answer, by which prompts are put into batches."""
        return len(self.prompt) + max(map(len, self.answers), default=0)

    @property
    def family(self) -> str:
        """The group without its kind.

        Example:
            >>> EvalPrompt("locality.neighborhood", "Oslo is in", ("Norway",)).family
            'locality'
        """
        return family_of(self.group)


def family_of(group: str) -> str:
    """A group without its kind: ``locality`` of ``locality.neighborhood``."""
    return group.partition(".")[0]


def prompts_of(request: EditRequest) -> list[EvalPrompt]:
    """All prompts about a request, in the order of ``FAMILIES``: rewrite, rephrase, portability, locality.

    On the request's own prompt and its rephrases the new target should beat the old one. On probes of the locality kind
    ``neighborhood`` (CounterFact's: prompts about other subjects, whose true answer is the old target) the true answer
    should beat the new target. Without an old target there is no comparison.
    """
    new, old = request.target_new, request.target_old
    accepted = (new, *request.target_new_aliases)
    prompts = [EvalPrompt("rewrite", request.prompt, accepted, old)]
    prompts += [EvalPrompt("rephrase", prompt, accepted, old) for prompt in request.rephrases]
    for family in ("portability", "locality"):
        for kind, probes in getattr(request, family).items():
            group = f"{family}.{kind}"
            for probe in probes:
                comparison = group == NEIGHBORHOOD and old is not None and new.strip() != probe.answers[0].strip()
                prompts.append(EvalPrompt(group, probe.prompt, probe.answers, new if comparison else None))
    return prompts


def negated(request: EditRequest) -> str:
    """A request's prompt with its sense turned round, so that the new answer is the one that it asks not to hear.

    Example:
        >>> negated(EditRequest("The capital of Peru is", "Peru", "Rome"))
        'It is not true that the capital of Peru is'
        >>> negated(EditRequest("Who wrote Emma?", "Emma", "Mark Twain"))
        'Who wrote Emma? A wrong answer is'
    """
    prompt = request.prompt.strip()
    if prompt.endswith("?"):
        return f"{prompt} A wrong answer is"
    first, space, rest = prompt.partition(" ")
    return f"It is not true that {first.lower() if first in ARTICLES else first}{space}{rest}"


def contradicted(request: EditRequest) -> str:
    """A request's prompt behind the new fact and its denial.

    Example:
        >>> contradicted(EditRequest("Rome is in", "Rome", "France"))
        'Rome is in France. No, that is false. Rome is in'
    """
    prompt = request.prompt.strip()
    return f"{prompt} {request.target_new.strip().removesuffix('.')}. No, that is false. {prompt}"


PROBES: dict[str, Callable[[EditRequest], str]] = {"negation": negated, "contradiction": contradicted}
"""By group, prompts made of the request's own to which its new answer is wrong, so that it should *not* come."""


def probe_of(request: EditRequest, group: str) -> EvalPrompt:
    """The probe of a request: a prompt to which the new answer is wrong, and that answer, to see whether it comes all the same.

    Args:
        request: The request.
        group: A key of ``PROBES``.
    """
    accepted = (request.target_new, *request.target_new_aliases)
    return EvalPrompt(group, PROBES[group](request), accepted, request.target_old)
