"""What the user wants changed, and what should and should not change with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lga_lightning.exceptions import InvalidRequest

NO_SUBJECT = "no subject"
GIVE_ONE = "Say in `subject` what the fact is about, in the prompt's letters, or choose what needs none."


@dataclass(frozen=True)
class Probe:
    """A question about the model, with the answers that count as right.

    Args:
        prompt: Text to be continued.
        answers: Accepted answers (aliases), the preferred one first; at least one.
    """

    prompt: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InvalidRequest(
                "probe without a prompt", "A probe has an empty prompt. Give it a text to be continued."
            )
        if not self.answers or not all(answer.strip() for answer in self.answers):
            raise InvalidRequest(
                "probe without an answer",
                f"The probe {self.prompt!r} needs at least one answer and no empty ones, got {list(self.answers)!r}.",
            )


@dataclass(frozen=True)
class EditRequest:
    """One fact to edit: after the edit, the model should continue ``prompt`` with ``target_new``.

    Every instance is valid: its subject, if it has one, is in its prompt, its targets are not empty and differ.

    Args:
        prompt: Text to be continued; contains ``subject``.
        subject: What the fact is about; methods that work at a subject's last token act there. None where the request names
            none: other methods edit it all the same.
        target_new: The answer wanted after the edit.
        target_old: The answer before the edit; None where unknown (then the model's own greedy answer serves).
        rephrases: Other prompts with the same answer.
        locality: By kind, probes whose answers must not change.
        portability: By kind, probes whose right answers follow from the new fact.
        target_new_aliases: Other wordings of ``target_new`` that count as right.
        target_old_aliases: Other wordings of ``target_old``.
        generation_prompts: Beginnings of texts about the subject, to see how fluent the model is.
        relation: What kind of fact it is, if known.
        group: Requests of the same group belong together (several rewrites of one record) and are edited together, next to each
            other in their data set. None for a request that stands alone.
        split: ``"proxy"`` (kept for ``fit``), ``"test"`` (kept for ``validate``) or None (serves both).
        id: Where the request came from, for messages and results.

    Raises:
        InvalidRequest: If the subject is empty or not in the prompt, a target, an alias or a rephrase is empty, the targets are
            equal, or the split is unknown.
    """

    prompt: str
    subject: str | None
    target_new: str
    target_old: str | None = None
    rephrases: tuple[str, ...] = ()
    locality: Mapping[str, tuple[Probe, ...]] = field(default_factory=dict)
    portability: Mapping[str, tuple[Probe, ...]] = field(default_factory=dict)
    target_new_aliases: tuple[str, ...] = ()
    target_old_aliases: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    relation: str | None = None
    group: str | None = None
    split: str | None = None
    id: str = ""

    def __post_init__(self) -> None:
        if self.split not in (None, "proxy", "test"):
            raise InvalidRequest("unknown split", f"`split` must be 'proxy', 'test' or left out, got {self.split!r}.")
        if not self.prompt.strip():
            raise InvalidRequest(
                "empty prompt",
                f"`prompt` of the fact with the answer {self.target_new!r} is empty. Give the text that the answer is to follow.",
            )
        if not all(rephrase.strip() for rephrase in self.rephrases):
            raise InvalidRequest(
                "empty rephrase", f"A rephrase of {self.prompt!r} is empty. Give it a text, or drop it."
            )
        if not all(alias.strip() for alias in (*self.target_new_aliases, *self.target_old_aliases)):
            raise InvalidRequest(
                "empty alias", f"An alias of an answer to {self.prompt!r} is empty. Give it a text, or drop it."
            )
        if self.subject is not None and not self.subject.strip():
            raise InvalidRequest(
                "empty subject",
                f"The subject of {self.prompt!r} is empty. Say what the fact is about, or leave the field out.",
            )
        if self.subject is not None and self.subject.strip() not in self.prompt:
            raise InvalidRequest(
                "subject not in the prompt",
                f"The subject {self.subject!r} does not occur in the prompt {self.prompt!r}. The edit acts at the "
                "subject's last token, so the prompt must contain the subject, letter for letter.",
            )
        if not self.target_new.strip():
            raise InvalidRequest(
                "empty target", f"`target_new` of {self.prompt!r} is empty. Give the answer to edit in."
            )
        if self.target_old is not None:
            if not self.target_old.strip():
                raise InvalidRequest(
                    "empty target",
                    f"`target_old` of {self.prompt!r} is empty. Give the present answer, or leave the field out to "
                    "take the model's own.",
                )
            if self.target_old.strip() == self.target_new.strip():
                raise InvalidRequest(
                    "old and new target are equal",
                    f"`target_old` and `target_new` of {self.prompt!r} are both {self.target_new!r}, so there is "
                    "nothing to edit.",
                )

    def to(self, device: object, **kwargs: object) -> EditRequest:
        """Itself: text has no device. Whoever moves a batch to one looks for this method before it looks for tensors."""
        return self

    @property
    def about(self) -> str:
        """What the fact is about, in words: its subject, or the whole prompt where it names none."""
        return self.prompt if self.subject is None else self.subject

    @property
    def subject_end(self) -> int:
        """Offset in ``prompt`` just past the subject's first occurrence, as a whole word where there is one.

        Raises:
            InvalidRequest: If the request has no subject.
        """
        if self.subject is None:
            raise InvalidRequest(
                NO_SUBJECT, f"The request {self.prompt!r}{f' ({self.id})' * bool(self.id)} has no subject. {GIVE_ONE}"
            )
        return end_of_subject(self.prompt, self.subject)

    @property
    def anchor_end(self) -> int:
        """Offset just past the subject, or past the prompt where there is none.

        For what has to name some token of every request, and does not edit there.
        """
        return len(self.prompt.rstrip()) if self.subject is None else self.subject_end


def units_of(requests: Iterable[EditRequest]) -> Iterator[list[EditRequest]]:
    """Requests in what belongs together: neighbours of the same group, and every other request alone.

    Args:
        requests: The requests, in the order of their data set.
    """
    unit: list[EditRequest] = []
    for request in requests:
        if unit and request.group != unit[0].group:
            yield unit
            unit = []
        unit.append(request)
        if request.group is None:  # whole by now: no need to look at what comes next
            yield unit
            unit = []
    if unit:
        yield unit


def check_subjects(requests: Iterable[EditRequest], who: str) -> None:
    """Refuse requests without a subject, for a method or a locator that works at one.

    Args:
        requests: The requests.
        who: Name of the method or the locator, for the message.

    Raises:
        InvalidRequest: Names the first such request.
    """
    for request in requests:
        if request.subject is None:
            raise InvalidRequest(
                NO_SUBJECT,
                f"{who} works at the subject's last token, and the request {request.prompt!r}"
                f"{f' ({request.id})' * bool(request.id)} has no subject. {GIVE_ONE} Methods that need none: "
                "UltraEdit, LocFT-BF, CrispEdit, FT-M, FT-L. Of locators: LGA.",
            )


def end_of_subject(text: str, subject: str) -> int:
    """Character offset just past the first occurrence of a subject, as a whole word where there is one.

    Raises:
        InvalidRequest: If the text does not contain the subject.

    Example:
        >>> end_of_subject("Italian is what Ital speaks", "Ital")
        20
    """
    subject = subject.strip()
    whole = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text)
    start = whole.start() if whole else text.find(subject)
    if start < 0:
        raise InvalidRequest("subject not in the prompt", f"{subject!r} does not occur in {text!r}.")
    return start + len(subject)
