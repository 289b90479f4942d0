"""The KnowEdit sets: wiki_counterfact, ZsRE, wiki_recent and WikiBio."""

from __future__ import annotations

from typing import Any

from lga_lightning.data.records import Record
from lga_lightning.errors import InvalidRequest
from lga_lightning.requests import EditRequest, Probe


def read_knowedit(record: Record) -> EditRequest:
    """A record of any of the four sets.

    WikiBio calls the subject ``concept``, the prompt ``text`` and the new target ``labels``; wiki_recent and WikiBio have no
    old answer. Some probes of these sets have no answer: they are dropped, and the request stays.
    """
    biography = "concept" in record.values and "prompt" not in record.values
    prompt, subject, new = ("text", "concept", "labels") if biography else ("prompt", "subject", "target_new")
    old = record.optional_answers("ground_truth")
    targets = record.answers(new) or ("",)  # an empty list is as good as an empty answer
    return EditRequest(
        prompt=record.text(prompt),
        subject=record.text(subject),
        target_new=targets[0],
        target_old=old[0] if old else None,
        target_new_aliases=targets[1:],
        target_old_aliases=old[1:],
        rephrases=record.texts("rephrase_prompt"),
        locality=_probes(record, "locality"),
        portability=_probes(record, "portability"),
        id=record.place,
    )


def has_knowedit_probes(values: dict[str, Any]) -> bool:
    """Whether the first probe of a record answers with a ``ground_truth``."""
    for name in ("portability", "locality"):
        kinds = values.get(name)
        for rows in kinds.values() if isinstance(kinds, dict) else ():
            if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                return "ground_truth" in rows[0]
    return False


def _probes(record: Record, name: str) -> dict[str, tuple[Probe, ...]]:
    found = {kind: tuple(_usable(rows)) for kind, rows in record.records(name).items()}
    return {kind: probes for kind, probes in found.items() if probes}


def _usable(rows: list[Record]) -> list[Probe]:
    probes = []
    for row in rows:
        answers = row.optional_answers("ground_truth")
        for prompt in row.texts("prompt"):
            if answers and prompt.strip():
                probes.append(Probe(prompt, answers))
            else:
                reason = "probe without an answer" if prompt.strip() else "probe without a prompt"
                message = f"{row.place}: the probe {prompt!r} has the answers {list(answers)}."
                row.dropped.append(InvalidRequest(reason, message))
    return probes
