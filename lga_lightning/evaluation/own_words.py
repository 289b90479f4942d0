"""Metrics of the model's own words: exactly the answer, the answer in it, a judge's verdict, and whether it came to an end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from lga_lightning.evaluation.metric import Grouped
from lga_lightning.evaluation.prompts import PROBES, EvalPrompt
from lga_lightning.evaluation.protocols import LIMIT
from lga_lightning.evaluation.responses import Response
from lga_lightning.metrics.text import begins_with, contains, exact_match, normalised

MATCHED = ("rewrite", "rephrase", "portability", *PROBES)  # families whose answers are an edit's
OVER = {"rewrite": "", "rephrase": "; mean over the request's rephrases"}
OVER |= dict.fromkeys(("portability", "locality"), "; mean over probes, then over kinds") | dict.fromkeys(PROBES, "")
RIGHT = {"rewrite": "target_new or an alias", "rephrase": "target_new or an alias"}
RIGHT |= dict.fromkeys(("portability", "locality"), "one of a probe's answers")
RIGHT |= dict.fromkeys(PROBES, "target_new or an alias, where that is wrong (lower is better)")


class OwnWords(Grouped):
    """A metric of what the model says by itself, up to where the protocol lets it speak.

    Attributes:
        protocols: By family, the protocol with ``{words}`` for how the model was let speak.
        in_context: Whether it is about what was said with a text before the prompt.
    """

    in_context: ClassVar[bool] = False
    match: Callable[[str, tuple[str, ...]], bool]

    def applies(self, prompt: EvalPrompt) -> bool:
        """To prompts with answers."""
        return bool(prompt.answers) and prompt.family in self.protocols

    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """0 or 1."""
        one, other = (side.text_in_context if self.in_context else side.text for side in (before, after))
        return None if one is None or other is None else self.compare(prompt, one, other)

    def compare(self, prompt: EvalPrompt, before: str, after: str) -> tuple[float, float]:
        """Whether each text is right."""
        return float(self.match(before, prompt.answers)), float(self.match(after, prompt.answers))


class Generated(OwnWords):
    """Whether the model's own words are one of the answers; for locality, what they were before the edit."""

    name = "generated"
    match = staticmethod(exact_match)
    protocols: ClassVar[Mapping[str, str]] = {
        **{family: f"{{words}}is {RIGHT[family]}{OVER[family]}" for family in MATCHED},
        "locality": "{words}is that of the unedited model; mean over probes, then over kinds",
    }

    def compare(self, prompt: EvalPrompt, before: str, after: str) -> tuple[float, float]:
        """For locality, whether the words are the same."""
        if prompt.family == "locality":
            return 1.0, float(normalised(before) == normalised(after))
        return super().compare(prompt, before, after)


class Begins(OwnWords):
    """Whether the model's own words begin with one of the answers; not for locality."""

    name = "begins"
    match = staticmethod(begins_with)
    protocols: ClassVar[Mapping[str, str]] = dict.fromkeys(
        MATCHED, "as `generated`, but the model may go on behind the answer: what it says begins with it"
    )


class Contained(OwnWords):
    """Whether one of the answers stands in the model's own words; for locality too, before and after."""

    name = "contained"
    match = staticmethod(contains)
    protocols: ClassVar[Mapping[str, str]] = {
        family: f"{{words}}has {answer} in it, word for word{OVER[family]}" for family, answer in RIGHT.items()
    }


class GeneratedInContext(Generated):
    """As ``generated``, of what the model says with a text before the prompt."""

    name = "generated_in_context"
    in_context = True


class ContainedInContext(Contained):
    """As ``contained``, of what the model says with a text before the prompt."""

    name = "contained_in_context"
    in_context = True


class Judged(OwnWords):
    """Whether the model's own words state one of the answers, in the opinion of a judge."""

    name = "judged"
    protocols: ClassVar[Mapping[str, str]] = {
        family: f"share of prompts on which a judge says that the model's own words state {answer}; prompts without a verdict on "
        f"both sides do not count{OVER[family]}"
        for family, answer in RIGHT.items()
    }

    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """0 or 1, where there is a verdict on both sides."""
        one, other = (side.judgement.verdict if side.judgement else None for side in (before, after))
        return None if one is None or other is None else (float(one), float(other))


class Ended(OwnWords):
    """Whether the model came to its own end where it spoke freely, and was not cut."""

    name = "ended"
    protocols: ClassVar[Mapping[str, str]] = dict.fromkeys(
        RIGHT, f"share of prompts on which the model, speaking freely, came to its own end within {LIMIT}"
    )

    def score(self, prompt: EvalPrompt, before: Response, after: Response) -> tuple[float, float] | None:
        """0 or 1."""
        return None if before.ended is None or after.ended is None else (float(before.ended), float(after.ended))


OWN_WORDS: tuple[type[OwnWords], ...] = (
    Generated,
    Begins,
    Contained,
    GeneratedInContext,
    ContainedInContext,
    Judged,
    Ended,
)
"""The metrics of the model's own words, in the order in which results list them beside token accuracy."""
