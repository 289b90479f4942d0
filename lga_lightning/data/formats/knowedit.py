"""The KnowEdit sets: wiki_counterfact, ZsRE, wiki_recent and WikiBio."""

from __future__ import annotations

from typing import Any

from lga_lightning.data.formats.probes import usable_probes
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe

KINDS = {"Reasoning", "Subject_Aliasing", "Logical_Generalization", "Relation_Specificity", "Forgetfulness"}


def read_knowedit(record: Record) -> EditRequest:
    """A record of any of the four sets.

    WikiBio calls the subject ``concept``, the prompt ``text`` and the new target ``labels``; wiki_recent and WikiBio have no
    old answer. Some probes of these sets have no answer: they are dropped, and the request stays.
    """
    biography = "concept" in record.values and "prompt" not in record.values
    prompt, subject, new = ("text", "concept", "labels") if biography else ("prompt", "subject", "target_new")
    old = record.optional_answers("ground_truth")
    targets = record.filled_answers(new) or ("",)
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
    """Whether a record's first probe answers with a ``ground_truth``; if it has none, whether the kinds are KnowEdit's."""
    kinds = {kind: rows for name in ("portability", "locality") for kind, rows in _object(values.get(name)).items()}
    probes = [row for rows in kinds.values() if isinstance(rows, list) for row in rows]
    return "ground_truth" in _object(probes[0]) if probes else not KINDS.isdisjoint(kinds)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _probes(record: Record, name: str) -> dict[str, tuple[Probe, ...]]:
    found = {kind: usable_probes(rows, "prompt", "ground_truth") for kind, rows in record.records(name).items()}
    return {kind: probes for kind, probes in found.items() if probes}
