"""Probes of data sets in which some have no answer."""

from __future__ import annotations

from lga_lightning.data.records import Record
from lga_lightning.data.requests import Probe
from lga_lightning.exceptions import InvalidRequest


def usable_probes(rows: list[Record], prompt_field: str, answers_field: str) -> tuple[Probe, ...]:
    """The probes that have a prompt and an answer; the others are noted as dropped, and their request stays.

    Args:
        rows: The probes' records.
        prompt_field: Name of the field with the prompt, or with several that have the same answers.
        answers_field: Name of the field with the answers, which may be missing.
    """
    probes = []
    for row in rows:
        answers = row.optional_answers(answers_field)
        for prompt in row.texts(prompt_field):
            if answers and prompt.strip():
                probes.append(Probe(prompt, answers))
            else:
                reason = "probe without an answer" if prompt.strip() else "probe without a prompt"
                message = f"{row.place}: the probe {prompt!r} has the answers {list(answers)}."
                row.dropped.append(InvalidRequest(reason, message))
    return tuple(probes)
