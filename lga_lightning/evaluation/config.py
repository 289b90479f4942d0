"""What is asked and measured of edits."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.edit_metrics import BUILT_IN
from lga_lightning.evaluation.judge import Judge
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.evaluation.prompts import FAMILIES, FLUENCY, PERPLEXITY, PROBES, EvalPrompt, probe_of, prompts_of
from lga_lightning.evaluation.protocols import NEUTRAL_TEXT, PROTOCOLS, ProtocolName
from lga_lightning.evaluation.responses import Response
from lga_lightning.exceptions import SettingError
from lga_lightning.utils.settings import check_at_least_one

# what result files have under these names beside, or in place of, a metric
TAKEN = {
    *(metric.name for metric in BUILT_IN),
    *FAMILIES,
    *PROBES,
    PERPLEXITY,
    "counterfact",
    "said",
    "said_in_context",
    "judge_prompt",
    "judge_reply",
    "before",
    "after",
}


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked and measured. Teacher-forced scores are always taken.

    Args:
        generate: Let the model answer every prompt in its own words, before and after. Token scores alone flatter.
        max_new_tokens: Where such an answer is cut, if no accepted answer is longer; None for what is usual in the protocol, 50 or 200.
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
        unedited: The unedited model's responses by prompt, where they are to be kept: those that are missing are added. All that is asked with
            such a config is asked of one model.
        scored: Where requests are edited together or one after the other, how many of them are scored, drawn at random; None for all.

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
    unedited: dict[EvalPrompt, Response] | None = field(default=None, compare=False, repr=False)
    scored: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise SettingError(f"`protocol` must be one of {list(PROTOCOLS)}, got {self.protocol!r}.")
        check_at_least_one(max_new_tokens=self.limit, max_rows=self.max_rows)
        if self.scored is not None:
            check_at_least_one(scored=self.scored)
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
        """Where an answer of the model's own is cut, if no accepted answer is longer, in tokens."""
        return PROTOCOLS[self.protocol].max_new_tokens if self.max_new_tokens is None else self.max_new_tokens

    def teacher_forced(self) -> EvaluationConfig:
        """The same without anything that the model says by itself: quick, for looks in between, which keep what the unedited model responds."""
        return replace(self, generate=False, fluency=False, protocol="completion", judge=None, unedited={})

    def settings(self) -> dict[str, Any]:
        """How the model was let speak, and who judges it, for result files."""
        if not self.generate:
            return {"generate": False}
        found: dict[str, Any] = {"protocol": self.protocol, "max_new_tokens": self.limit}
        found |= {"context": self.context} if self.in_the_wild else {}
        return found | ({"judge": self.judge.settings()} if self.judge is not None else {})

    def asked(self) -> dict[str, Any]:
        """All that results depend on beside the edits, fit to be compared."""
        found = {name: getattr(self, name) for name in ("generate", "fluency", "chat", "probes")}
        return found | {"limit": self.limit, "metrics": [metric.name for metric in self.metrics], **self.settings()}

    def drawn(self, places: Iterable[int]) -> list[int]:
        """Those of some positions that are scored; the same in every run and on every process.

        Args:
            places: Positions of requests that are edited together.

        Example:
            >>> EvaluationConfig(scored=3).drawn(range(10))
            [0, 6, 9]
        """
        found = list(places)
        if self.scored is None or self.scored >= len(found):
            return found
        return sorted(random.Random(0).sample(found, self.scored))

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
