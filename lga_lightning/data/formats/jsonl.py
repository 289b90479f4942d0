"""Our own format: the fields of EditRequest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lga_lightning.data.formats.base import Format
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe

TEXTS = ("target_new_aliases", "target_old_aliases", "rephrases", "generation_prompts")
PROBES = ("locality", "portability")


def read_jsonl(record: Record) -> EditRequest:
    """Read a record of our own format; :func:`to_record` is the way back."""
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
        split=record.optional_text("split"),
        id=record.place,
    )


def to_record(request: EditRequest) -> dict[str, Any]:
    """A request as a record of our own format, for ``json.dumps``; fields that are empty are left out.

    Example:
        >>> to_record(EditRequest("Rome is in", "Rome", "France", rephrases=("Rome lies in",)))
        {'prompt': 'Rome is in', 'subject': 'Rome', 'target_new': 'France', 'rephrases': ['Rome lies in']}
    """
    record: dict[str, Any] = {
        "prompt": request.prompt,
        "subject": request.subject,
        "target_new": request.target_new,
        "target_old": request.target_old,
    }
    record |= {name: list(getattr(request, name)) for name in TEXTS}
    record |= {name: _probe_records(getattr(request, name)) for name in PROBES}
    record |= {"relation": request.relation, "split": request.split}
    # an empty relation is one; an empty list of rephrases is none
    return {name: value for name, value in record.items() if value is not None and value not in ([], {})}


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


JSONL = Format("jsonl", ("prompt", "target_new"), read_jsonl)
