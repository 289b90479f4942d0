"""What edits must reach before they are written: ``efficacy>=0.9, locality>=0.85, general>=0.98x``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.prompts import family_of
from lga_lightning.exceptions import RequirementError, SettingError
from lga_lightning.reports.edit_wording import first_look, listed, ways_out
from lga_lightning.reports.wording import FIRST_LOOK
from lga_lightning.results.validation import ValidationResult
from lga_lightning.results.validation_parts import RequestScores

GENERAL = "general"
FAMILY = {
    "efficacy": "rewrite",
    "reliability": "rewrite",
    "rewrite": "rewrite",
    "generalization": "rephrase",
    "generalisation": "rephrase",
    "rephrase": "rephrase",
    "portability": "portability",
    "locality": "locality",
    "specificity": "locality",
    GENERAL: GENERAL,
}
"""What is measured, by each of the field's names for it."""
RELATIVE = ("locality", GENERAL)  # of the others, little is right before
NEEDS = {"rephrase": "rephrases", "portability": "portability"}
SHOWN = 5  # facts
ROUNDING = 1e-9  # of means
EXAMPLE = "'efficacy>=0.9, locality>=0.85, general>=0.98x'"


@dataclass(frozen=True)
class Requirement:
    """One number that edits must reach.

    Attributes:
        name: What is measured, in the user's word for it: a key of ``FAMILY``.
        least: The number.
        relative: Whether it is a share of what the unedited model has.

    Example:
        >>> str(Requirement("general", 0.98, True))
        'general>=0.98x'
    """

    name: str
    least: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.name}>={self.number}"

    @property
    def number(self) -> str:
        """The number as it is written, with an x where it is relative."""
        return f"{self.least:g}{'x' * self.relative}"

    @property
    def family(self) -> str:
        """What is measured, in this package's word for it."""
        return FAMILY[self.name]

    def value(self, result: ValidationResult) -> float:
        """The number that edits have reached; NaN where there is none.

        Of prompts it is what a table of scores shows first, after the edits. Of the general suite it is the worst of its abilities,
        after the edits over before; of the perplexity, before over after.

        Args:
            result: What the edits did.
        """
        if self.family == GENERAL:
            scores = result.general.scores if result.general is not None else {}
            ratios = [1 / s.ratio if name == "perplexity" else s.ratio for name, s in scores.items() if s.before]
            return math.nan if any(map(math.isnan, ratios)) else min(ratios, default=math.nan)
        metric = result.metrics.get(self.family)
        if metric is None:
            return math.nan
        seen = first_look(metric)
        if not self.relative:
            return seen.after
        return seen.after / seen.before if seen.before else math.nan


def parse_requirements(text: str) -> list[Requirement]:
    """Read requirements, with commas between them.

    Args:
        text: The requirements; "" for none.

    Raises:
        SettingError: If one cannot be read, its number is out of range, or it cannot be had in that form.

    Example:
        >>> [str(one) for one in parse_requirements("efficacy >= 0.9, general>=0.98x")]
        ['efficacy>=0.9', 'general>=0.98x']
    """
    return [_parse(part) for part in text.split(",")] if text.strip() else []


def _parse(part: str) -> Requirement:
    match = re.fullmatch(r"\s*([a-z]+)\s*>=\s*([0-9]*\.?[0-9]+)\s*(x?)\s*", part, re.IGNORECASE)
    name = match[1].lower() if match else ""
    if match is None or name not in FAMILY:
        raise SettingError(
            f"The requirement {part.strip()!r} cannot be read. Write NAME>=NUMBER, or NAME>=NUMBERx for a share of what was before, with "
            f"commas between them, as in {EXAMPLE}. The names: {', '.join(FAMILY)}."
        )
    found = Requirement(name, float(match[2]), bool(match[3]))
    if found.relative and found.family not in RELATIVE:
        raise SettingError(
            f"The requirement {found} compares with before the edits, when hardly any answer is right. Write it without the x."
        )
    if found.family == GENERAL and not found.relative:
        raise SettingError(f"General ability is compared with before the edits: write {found}x.")
    if not found.relative and not 0 < found.least <= 1:
        raise SettingError(f"The requirement {found} must be above 0 and at most 1, which is for all: 90% is 0.9.")
    if found.relative and not 0 < found.least <= 2:
        raise SettingError(
            f"The requirement {found} must be above 0 and at most 2x; 1x is as much as before: 98% of it is 0.98x."
        )
    return found


def required_by_family(requirements: Sequence[Requirement]) -> dict[str, str]:
    """What is required of each family of prompts, and of general ability, for a table.

    Args:
        requirements: The requirements.

    Example:
        >>> required_by_family(parse_requirements("locality>=0.8, specificity>=0.95x, efficacy>=1"))
        {'locality': '0.8, 0.95x', 'rewrite': '1'}
    """
    found: dict[str, list[str]] = {}
    for one in requirements:
        found.setdefault(one.family, []).append(one.number)
    return {family: ", ".join(numbers) for family, numbers in found.items()}


def check_can_be_judged(requirements: Sequence[Requirement], requests: Sequence[EditRequest]) -> None:
    """Refuse a requirement that no request has prompts for.

    Args:
        requirements: The requirements.
        requests: The requests, with all probes that they will be asked.

    Raises:
        SettingError: Says which, and what to do.
    """
    for requirement in requirements:
        family = requirement.family
        if family in NEEDS and not any(getattr(request, NEEDS[family]) for request in requests):
            raise SettingError(
                f"The requirement {requirement} cannot be judged: no fact has {NEEDS[family]}. Give the facts in a file with some "
                f"(docs/data.md), or leave this requirement out."
            )
        if family == "locality" and not any(request.locality for request in requests):
            raise SettingError(
                f"The requirement {requirement} cannot be judged: no fact has locality probes, and the model knows none of the bundled "
                "facts that would take their place. Give the facts in a file with some (docs/data.md), or leave this requirement out."
            )


def check_met(requirements: Sequence[Requirement], result: ValidationResult) -> None:
    """Refuse edits that do not reach what is required.

    Args:
        requirements: The requirements.
        result: What the edits did.

    Raises:
        RequirementError: Says what is missed, by which facts, and what may help. A number that is missing is missed.
    """
    missed = [one for one in requirements if not one.value(result) >= one.least - ROUNDING]
    if not missed:
        return
    said = listed([f"{one.name} is {_unlike(one, one.value(result))}, not {one.number}" for one in missed])
    families = list(dict.fromkeys(one.family for one in missed))
    facts = [
        f"{', '.join(repr(request.prompt) for request in failed[:SHOWN])}{', ...' * (len(failed) > SHOWN)} ({family})"
        for family in families
        if (failed := failing(result, family))
    ]
    failed_facts = f" Where it fails: {'; '.join(facts)}." if facts else ""
    help_each = list(dict.fromkeys(_help(family, result) for family in families))
    raise RequirementError(
        f"Nothing is written, since the edits are not what is required: {said}.{failed_facts} What may help: {'; '.join(help_each)}.",
        result,
    )


def _unlike(requirement: Requirement, value: float) -> str:
    """A number that misses what is required, in as many digits as show that it does."""
    shown = (f"{value:.{digits}g}{'x' * requirement.relative}" for digits in range(3, 17))
    return next(text for text in shown if text != requirement.number)


def failing(result: ValidationResult, family: str) -> list[RequestScores]:
    """The requests that are not all right in a family of prompts; of locality, those that are worse than before.

    Args:
        result: What the edits did.
        family: ``rewrite``, ``rephrase``, ``portability`` or ``locality``.
    """
    found = []
    for request in result.requests:
        for group, scores in request.scores.items():
            if family_of(group) != family:
                continue
            sides = next((scores[name] for name in FIRST_LOOK if name in scores), scores)
            if sides["after"] < (sides["before"] if family == "locality" else 1):
                found.append(request)
                break
    return found


def _help(family: str, result: ValidationResult) -> str:
    method = result.method
    if family == "rewrite":
        steps = f"more steps than {method['steps']} (--editor.steps), " if "steps" in method else ""
        return f"for the new answer, {steps}another layer (--layer), or another method (--editor)"
    if family in NEEDS:
        return "for other words, some of the rephrases as requests of their own, with the same `group`, or another layer (--layer)"
    fewer = " or fewer facts at once" * (result.num_requests > 1)
    return f"for what must not change, {ways_out(method)}{fewer}"
