"""From a file's records to edit requests: one small function a format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from lga_lightning.data.records import Record, read_records
from lga_lightning.errors import DataError, InvalidRequest
from lga_lightning.requests import EditRequest, Probe

FACTS = "bundled facts"


@dataclass
class LoadedRequests:
    """What came out of a file.

    Attributes:
        requests: The valid requests, in the file's order.
        skipped: How many records were left out, by reason.
        first_skipped: For each reason, what the first of them had.
    """

    requests: list[EditRequest]
    skipped: Counter[str] = field(default_factory=Counter)
    first_skipped: dict[str, str] = field(default_factory=dict)


def read_jsonl(record: Record) -> EditRequest:
    """Our own format: the fields of :class:`EditRequest`."""
    return EditRequest(
        prompt=record.text("prompt"),
        subject=record.text("subject"),
        target_new=record.text("target_new"),
        target_old=record.optional_text("target_old"),
        rephrases=record.texts("rephrases"),
        locality=_probes(record, "locality"),
        portability=_probes(record, "portability"),
        relation=record.optional_text("relation"),
        split=record.optional_text("split"),
        id=record.place,
    )


def read_counterfact_edit(record: Record) -> EditRequest:
    """EasyEdit's CounterFact: the prompt filled in, one rephrase, one locality probe."""
    locality = {}
    if record.values.get("locality_prompt") is not None:
        probe = Probe(record.text("locality_prompt"), record.answers("locality_ground_truth"))
        locality["neighborhood"] = (probe,)
    return EditRequest(
        prompt=record.text("prompt"),
        subject=record.text("subject"),
        target_new=record.text("target_new"),
        target_old=record.optional_text("ground_truth"),
        rephrases=record.texts("rephrase_prompt"),
        locality=locality,
        id=record.place,
    )


FORMATS: dict[str, Callable[[Record], EditRequest]] = {
    "jsonl": read_jsonl,
    "counterfact-edit": read_counterfact_edit,
}


def load_requests(
    path: str | Path | None = None,
    format: str = "jsonl",
    limit: int | None = None,
    strict: bool = False,
    split: str | None = None,
) -> LoadedRequests:
    """Read edit requests from a file.

    Args:
        path: The file; None for the bundled facts.
        format: Name of its format, a key of ``FORMATS``.
        limit: Keep the first so many valid requests.
        strict: Fail at the first record that cannot be used instead of leaving it out.
        split: Leave out the records that are kept for another split; those without one stay.

    Raises:
        DataError: If the file is missing or malformed, a field is missing, or no request is left.
        InvalidRequest: If ``strict`` and a request cannot be used (subject not in the prompt, empty target, ...).
    """
    if format not in FORMATS:
        raise DataError(f"`format` must be one of {list(FORMATS)}, got {format!r}.")
    if limit is not None and limit < 1:
        raise DataError(f"`limit` must be at least 1, got {limit}. Leave it out for all requests.")
    source = Path(str(files("lga_lightning") / "data" / "facts.jsonl")) if path is None else Path(path).expanduser()
    loaded = LoadedRequests([])
    for record in read_records(source):
        try:
            request = FORMATS[format](record)
        except InvalidRequest as error:
            message = f"{record.place}: {error}"
            if strict:
                raise InvalidRequest(error.reason, message) from error
            loaded.skipped[error.reason] += 1
            loaded.first_skipped.setdefault(error.reason, message)
            continue
        if split is None or request.split in (None, split):
            loaded.requests.append(request)
            if len(loaded.requests) == limit:
                break
    if not loaded.requests:
        raise DataError(f"{source.name} holds no usable request{_why(loaded, split)}.")
    return loaded


def _why(loaded: LoadedRequests, split: str | None) -> str:
    if loaded.skipped:
        return ": " + " ".join(f"{count} left out ({loaded.first_skipped[r]})" for r, count in loaded.skipped.items())
    return f" for the split {split!r}" if split else ": it has no records"


def _probes(record: Record, name: str) -> dict[str, tuple[Probe, ...]]:
    return {
        kind: tuple(Probe(row.text("prompt"), row.answers("answers")) for row in rows)
        for kind, rows in record.records(name).items()
    }
