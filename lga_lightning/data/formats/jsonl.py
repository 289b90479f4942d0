"""Our own format: the fields of EditRequest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from lga_lightning.data.formats.base import Format
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import DataError

TARGETS = ("prompt", "subject", "target_new", "target_old")
TEXTS = ("target_new_aliases", "target_old_aliases", "rephrases", "generation_prompts")
PROBES = ("locality", "portability")
LABELS = ("relation", "group", "split")
ALIKE = 0.85  # of difflib: `subjects` is `subject` misspelt, and `question` is no `relation`


def read_jsonl(record: Record) -> EditRequest:
    """Read a record of our own format; :func:`to_record` is the way back.

    Raises:
        DataError: If a field is misspelt.
    """
    _check_spelling(record)
    return EditRequest(
        prompt=record.text("prompt"),
        subject=record.optional_text("subject"),
        target_new=record.text("target_new"),
        target_old=record.optional_text("target_old"),
        target_new_aliases=record.texts("target_new_aliases"),
        target_old_aliases=record.texts("target_old_aliases"),
        rephrases=record.texts("rephrases"),
        locality=_probes(record, "locality"),
        portability=_probes(record, "portability"),
        generation_prompts=record.texts("generation_prompts"),
        relation=record.optional_text("relation"),
        group=record.optional_text("group"),
        split=record.optional_text("split"),
        id=record.place,
    )


def to_record(request: EditRequest) -> dict[str, Any]:
    """A request as a record of our own format, for ``json.dumps``; fields that are empty are left out.

    Example:
        >>> to_record(EditRequest("Rome is in", "Rome", "France", rephrases=("Rome lies in",)))
        {'prompt': 'Rome is in', 'subject': 'Rome', 'target_new': 'France', 'rephrases': ['Rome lies in']}
    """
    record: dict[str, Any] = {name: getattr(request, name) for name in TARGETS}
    record |= {name: list(getattr(request, name)) for name in TEXTS}
    record |= {name: _probe_records(getattr(request, name)) for name in PROBES}
    record |= {name: getattr(request, name) for name in LABELS}
    # an empty relation is one; an empty list of rephrases is none
    return {name: value for name, value in record.items() if value is not None and value not in ([], {})}


def _check_spelling(record: Record) -> None:
    """Refuse a field whose name is nearly that of one that the record lacks; other unknown fields are named in a warning."""
    known = (*TARGETS, *TEXTS, *PROBES, *LABELS)
    absent = [name for name in known if name not in record.values]
    for name in record.values.keys() - set(known):
        swapped = [one for one in absent if sorted(one) == sorted(str(name))]
        meant = swapped or difflib.get_close_matches(str(name), absent, n=1, cutoff=ALIKE)
        if meant:
            raise DataError(
                f"{record.place}: unknown field {name!r}; did you mean {meant[0]!r}? Rename it, or leave it out. The format jsonl has "
                f"the fields {', '.join(known)}."
            )


def _probes(record: Record, name: str) -> dict[str, tuple[Probe, ...]]:
    return {
        kind: tuple(Probe(row.text("prompt"), row.answers("answers")) for row in rows)
        for kind, rows in record.records(name).items()
    }


def _probe_records(kinds: Mapping[str, tuple[Probe, ...]]) -> dict[str, list[dict[str, Any]]]:
    return {
        kind: [{"prompt": probe.prompt, "answers": list(probe.answers)} for probe in probes]
        for kind, probes in kinds.items()
    }


JSONL = Format("jsonl", ("prompt", "target_new"), read_jsonl, unused=("id", "case_id"))
