"""A fact in one line, as a person types it: ``prompt|subject|target``."""

from __future__ import annotations

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import InvalidRequest

SPELLING = "'The capital of France is|France|Rome'"


def parse_fact(text: str) -> EditRequest:
    """Read a fact: prompt, subject and new target, with ``|`` between them. The subject may be empty, for methods that need none.

    Args:
        text: The line.

    Raises:
        InvalidRequest: If there are not three parts, or they make no request (subject not in the prompt, empty target, ...).

    Example:
        >>> fact = parse_fact("The capital of France is | France | Rome")
        >>> fact.prompt, fact.subject, fact.target_new
        ('The capital of France is', 'France', 'Rome')
    """
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != 3 or not parts[0]:
        raise InvalidRequest(
            "fact not in three parts",
            f"A fact is prompt|subject|target, as in {SPELLING}, got {text!r}. What has a '|' in it goes into a file.",
        )
    prompt, subject, target = parts
    return EditRequest(prompt, subject or None, target, id=f"fact {text!r}")
