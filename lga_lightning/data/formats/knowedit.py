"""The KnowEdit sets: wiki_counterfact, ZsRE, wiki_recent and WikiBio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lga_lightning.data.formats.base import Format
from lga_lightning.data.formats.probes import usable_probes
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe

FIELDS = ("prompt", "subject", "target_new")
WIKIBIO = ("text", "concept", "labels")  # the same, in WikiBio
KINDS = {"Reasoning", "Subject_Aliasing", "Logical_Generalization", "Relation_Specificity", "Forgetfulness"}


def read_knowedit(record: Record) -> EditRequest:
    """A record of any of the four sets.

    WikiBio calls the subject ``concept``, the prompt ``text`` and the new target ``labels``; wiki_recent and WikiBio have no
    old answer. Some probes of these sets have no answer: they are dropped, and the request stays.
    """
    biography = "concept" in record.values and "prompt" not in record.values
    prompt, subject, new = WIKIBIO if biography else FIELDS
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


def _has_knowedit_probes(values: Mapping[str, Any]) -> bool:
    """Whether a record's first probe answers with a ``ground_truth``; if it has none, whether the kinds are KnowEdit's."""
    kinds = {kind: rows for name in ("portability", "locality") for kind, rows in _object(values.get(name)).items()}
    probes = [row for rows in kinds.values() if isinstance(rows, list) for row in rows]
    return "ground_truth" in _object(probes[0]) if probes else not KINDS.isdisjoint(kinds)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _probes(record: Record, name: str) -> dict[str, tuple[Probe, ...]]:
    found = {kind: usable_probes(rows, "prompt", "ground_truth") for kind, rows in record.records(name).items()}
    return {kind: probes for kind, probes in found.items() if probes}


class KnowEdit(Format):
    """KnowEdit, whose fields are those of our own format, or WikiBio's."""

    def __init__(self) -> None:
        super().__init__("knowedit", FIELDS, read_knowedit, unused=("cond", "case_id"))

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether a record has WikiBio's fields, or what our own format has not: an answer, a rephrase or probes of KnowEdit."""
        if values.keys() >= set(WIKIBIO):
            return True
        ours = values.keys().isdisjoint({"ground_truth", "rephrase_prompt"}) and not _has_knowedit_probes(values)
        return super().matches(values) and not ours

    @property
    def signature(self) -> str:
        """The fields of its sets, in words."""
        return f"{', '.join(FIELDS)} with ground_truth, rephrase_prompt or KnowEdit's probes, or {', '.join(WIKIBIO)} (WikiBio)"


KNOWEDIT = KnowEdit()
