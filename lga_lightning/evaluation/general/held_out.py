"""What the suite asks: the bundled facts that no request of a run touches, and passages of a plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lga_lightning.data.requests import EditRequest

PLAIN_TEXT = Path(__file__).parents[2] / "data" / "plain_text.txt"
FEWEST = 40
"""Facts of untouched relations below which facts of any relation are asked, as long as their subjects are untouched."""
CHOICES = 4


@dataclass(frozen=True)
class Question:
    """A prompt with its right answer and, where the relation has any, wrong ones of the same kind.

    Attributes:
        prompt: Text to be continued.
        answer: What is right.
        others: Wrong answers.
    """

    prompt: str
    answer: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeldOutFacts:
    """Facts that a run leaves alone.

    Attributes:
        facts: The facts; each has an old target.
        rule: What makes them such, in words.
    """

    facts: list[EditRequest]
    rule: str


def held_out_facts(facts: Sequence[EditRequest], requests: Sequence[EditRequest]) -> HeldOutFacts:
    """The facts that no request touches: their relation is none of the requests', and their subject stands in no request.

    A run that touches (nearly) every relation leaves less than ``FEWEST`` of them. Then relations do not count, subjects do.

    Args:
        facts: Facts to choose from.
        requests: The requests of a run.
    """
    text = "\n".join(f"{request.about}\n{request.prompt}" for request in requests).casefold()
    relations = {request.relation for request in requests}
    known = [fact for fact in facts if fact.target_old is not None]
    untouched = [fact for fact in known if not re.search(rf"(?<!\w){re.escape(fact.about.casefold())}(?!\w)", text)]
    strict = [fact for fact in untouched if fact.relation not in relations]
    if len(strict) >= FEWEST:
        return HeldOutFacts(strict, "bundled facts whose subject and relation no request of the run touches")
    return HeldOutFacts(
        untouched, "bundled facts whose subject no request of the run touches; their relations are edited"
    )


def questions_of(asked: Sequence[EditRequest], facts: Sequence[EditRequest]) -> list[Question]:
    """One question a fact: its own prompt, its old target, and the next answers of the same relation as wrong ones.

    Args:
        asked: The facts to ask about; each has an old target.
        facts: All facts, in whose order the wrong answers are taken: the same ones whatever is asked.
    """
    answers: dict[str | None, list[str]] = {}
    for fact in facts:
        of_relation = answers.setdefault(fact.relation, [])
        if fact.target_old is not None and fact.target_old.strip() not in of_relation:
            of_relation.append(fact.target_old.strip())
    found = []
    for fact in asked:
        right = (fact.target_old or "").strip()
        accepted = {right, *(alias.strip() for alias in fact.target_old_aliases)}
        of_relation = answers.get(fact.relation, [])
        start = of_relation.index(right) if right in of_relation else 0
        others = [answer for answer in (*of_relation[start:], *of_relation[:start]) if answer not in accepted]
        found.append(Question(fact.prompt, right, tuple(others[: CHOICES - 1])))
    return found


def plain_passages() -> list[str]:
    """The passages of the bundled plain text, written for this purpose: everyday prose that names no fact."""
    return [" ".join(part.split()) for part in PLAIN_TEXT.read_text(encoding="utf-8").split("\n\n") if part.strip()]
