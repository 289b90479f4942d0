"""Whether requests can be edited together."""

from __future__ import annotations

from collections.abc import Sequence

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import DataError


def check_together(requests: Sequence[EditRequest]) -> None:
    """Refuse what cannot be edited together: nothing, or requests that contradict each other.

    Raises:
        DataError: Says so, and names the two requests.
    """
    if not requests:
        raise DataError("There is no request to edit. Give at least one.")
    check_agreement(requests)


def folded(prompt: str) -> str:
    """A prompt with its white space folded: those of which this is the same are about the same."""
    return " ".join(prompt.split())


def check_agreement(requests: Sequence[EditRequest]) -> None:
    """Refuse a batch in which the same prompt is to get two answers.

    Raises:
        DataError: Names the two requests.
    """
    seen: dict[str, EditRequest] = {}
    for request in requests:
        prompt = folded(request.prompt)
        other = seen.setdefault(prompt, request)
        if other.target_new.strip() != request.target_new.strip():
            sources = " and ".join(part.id or repr(part.prompt) for part in (other, request))
            raise DataError(
                f"Two requests of one batch contradict each other ({sources}): {prompt!r} is to be answered with "
                f"{other.target_new!r} and with {request.target_new!r}. Drop one of them, or edit them one after the other "
                "(--model.mode sequential)."
            )
