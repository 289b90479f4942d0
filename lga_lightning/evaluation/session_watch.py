"""Looks at an editing session from time to time, and stops it where a governor's limit is passed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lga_lightning.editing.governor import Governor, Look, Stop, has_locality
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.general import plain_passages
from lga_lightning.evaluation.prompts import PERPLEXITY, EvalPrompt
from lga_lightning.evaluation.responses import respond
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.exceptions import SettingError
from lga_lightning.models.cached_prompts import unedited
from lga_lightning.models.hooks import frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.utils.dealing import gathered
from lga_lightning.utils.tensors import largest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_PASSAGES = 32  # of plain text, in a look
ROWS = 8  # passages a batch


class SessionWatch:
    """Keeps an editing session within the limits of a governor.

    Where a look finds a limit passed, the session goes back to the edits of the last look that found none, and that is the end of the
    run: the edits that are left are whole, and within all limits.

    Args:
        governor: The limits.
        model: The session's model.
        tokenizer: Its fast tokenizer.
        passages: Plain texts for perplexity, of which the first 32 are read; the package's own where there are none.

    Attributes:
        looks: All looks that were taken, in order.
        stop: Why the run was stopped, once it is.

    Example:
        >>> def edit_within_limits(session, groups):  # an EditSession, and lists of EditRequests
        ...     watch = SessionWatch(Governor(locality=0.8), session.model, session.tokenizer)
        ...     for group in groups:
        ...         session.edit(group)
        ...         if watch.after_group(session) is not None:
        ...             break
        ...     return watch.finish(session)
    """

    def __init__(
        self,
        governor: Governor,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        passages: Sequence[str] = (),
    ) -> None:
        self.governor, self.model, self.tokenizer = governor, model, tokenizer
        self.passages = [*(passages or plain_passages())][:MOST_PASSAGES]
        self.looks: list[Look] = []
        self.stop: Stop | None = None
        self._text = "given" if passages else "the package's own"
        self._groups = 0
        self._within: dict[str, Any] | None = None  # the session at the last look within all limits
        self._before: float | None = None
        self._probes = EvaluationConfig(generate=False, families=("locality",), unedited={})

    def after_group(self, session: EditSession) -> Stop | None:
        """Look at a session, if it is time to, after one more group has been edited.

        Args:
            session: The session; it goes back to the last look where a limit is passed.

        Returns:
            Why the run ends here; None where it goes on.

        Raises:
            SettingError: If the first group alone passes a limit: nothing is left to keep.
        """
        self._groups += 1
        if self._groups == 1 or self._groups % self.governor.every == 0:
            self._look(session)
        return self.stop

    def finish(self, session: EditSession) -> Stop | None:
        """Look at a session at its end, unless its last group was looked at, or the run was stopped; see :meth:`after_group`."""
        if self.stop is None and session.requests and (not self.looks or self.looks[-1].edits < len(session.requests)):
            self._look(session)
        return self.stop

    def is_within(self, session: EditSession) -> bool:
        """Whether the last look was at all of a session's edits, and found them within all limits, or left them so."""
        return self._within is not None and len(self._within["requests"]) == len(session.requests)

    def notes(self) -> dict[str, Any]:
        """Where the watch stands, as a JSON object."""
        stop = None if self.stop is None else asdict(self.stop)
        return {"groups": self._groups, "looks": [asdict(look) for look in self.looks], "stop": stop}

    def take_up(self, session: EditSession, notes: dict[str, Any]) -> None:
        """Go on from :meth:`notes`.

        Args:
            session: The session as it was then, within all limits.
            notes: The notes.
        """
        self._groups, self._within = notes["groups"], session.state()
        self.looks = [Look(**look) for look in notes["looks"]]
        self.stop = None if notes["stop"] is None else Stop(**notes["stop"])

    def report(self, left_out: int = 0) -> dict[str, Any]:
        """The limits, what was found at the looks, and why the run was stopped, for result files.

        Args:
            left_out: Number of requests that were not edited, or whose edits were not kept.
        """
        text = {} if self.governor.perplexity_ratio is None else {"text": self._text}
        stopped = None if self.stop is None else {**asdict(self.stop), "left_out": left_out}
        looks = [look.to_dict() for look in self.looks]
        return {**self.governor.settings(), **text, "looks": looks, "stopped": stopped}

    def look(self, session: EditSession) -> Look:
        """What a session has done to its model, as far as there are limits.

        Args:
            session: The session.
        """
        limits = self.governor
        return Look(
            len(session.requests),
            None if limits.perplexity_ratio is None else self._perplexity_ratio(session),
            None if limits.locality is None else self._locality(session),
            None if limits.relative_norm is None else largest(session.relative_norms().values()),
        )

    def _look(self, session: EditSession) -> None:
        # of several processes the first decides: their numbers may differ in the last digit, and all are to stop or none
        look = gathered(self.look(session), input_device(self.model))[0]
        self.looks.append(look)
        passed = self.governor.passed(look)
        if not passed:
            self._within = session.state()
            return
        reason = ", and ".join(passed)
        if self._within is None:
            raise SettingError(
                f"The first group of {look.edits} edit{'s' * (look.edits != 1)} alone passes a limit of the governor: {reason}. Nothing is kept, and nothing is "
                "written. Edit another layer or with another method, put guards on the edits (--model.guards), or set the limit less "
                "tight (--model.governor)."
            )
        session.restore(self._within)
        self.stop = Stop(reason, look.edits, len(session.requests))

    def _perplexity_ratio(self, session: EditSession) -> float:
        if self._before is None:
            self._before = self._nll()
        with session.delta.attached(self.model):
            after = self._nll()
        try:
            return math.exp(after - self._before)
        except OverflowError:
            return math.inf

    def _nll(self) -> float:
        """Mean over the passages of their mean negative log-likelihood a token."""
        prompts = [EvalPrompt(PERPLEXITY, passage, ()) for passage in self.passages]
        found = []
        with frozen(self.model):
            for start in range(0, len(prompts), ROWS):
                found += respond(self.model, self.tokenizer, prompts[start : start + ROWS], unedited)
        return sum(response.nll for response in found) / len(found)

    def _locality(self, session: EditSession) -> float | None:
        """None where none of the facts edited so far has a probe that is none of them itself."""
        known = [request for request in session.requests if has_locality(request)]
        if not known:
            return None
        chosen = random.Random(0).sample(known, min(len(known), self.governor.facts))
        results = evaluate(self.model, self.tokenizer, chosen, [session.delta] * len(chosen), self._probes)
        asked = [of_request for of_request in results if of_request]
        return mean_scores(asked, "locality", "token")[:, 1].mean().item() if asked else None
