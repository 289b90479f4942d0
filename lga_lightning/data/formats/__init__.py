"""From a record to an edit request: one small function a format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from lga_lightning.data.formats.counterfact import read_counterfact, read_counterfact_edit
from lga_lightning.data.formats.jsonl import read_jsonl, to_record
from lga_lightning.data.formats.knowedit import has_knowedit_probes, read_knowedit
from lga_lightning.data.formats.known import read_known
from lga_lightning.data.formats.questions import ZsreTarget, read_qaedit, read_zsre
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import DataError

__all__ = ["FORMATS", "FormatName", "Reader", "ZsreTarget", "reader_for", "recognise", "to_record"]

# None: the record is sound, but no request can be made of it
Reader = Callable[[Record], EditRequest | None]
FormatName = Literal[
    "auto",
    "jsonl",
    "counterfact",
    "multi_counterfact",
    "counterfact-edit",
    "zsre_mend_eval",
    "knowedit",
    "qaedit",
    "known_1000",
]

# each format with the fields that every record of it has
FORMATS: dict[str, tuple[str, ...]] = {
    "jsonl": ("prompt", "subject", "target_new"),
    "counterfact": ("requested_rewrite",),
    "multi_counterfact": ("requested_rewrite",),
    "counterfact-edit": ("prompt", "subject", "target_new", "ground_truth", "locality_prompt"),
    "zsre_mend_eval": ("subject", "src", "alt", "answers"),
    "knowedit": ("prompt", "subject", "target_new"),
    "qaedit": ("prompt", "subject", "target", "rephrase"),
    "known_1000": ("prompt", "subject", "attribute", "template"),
}
WIKIBIO = ("concept", "text", "labels")


def reader_for(format: str, zsre_target: ZsreTarget = "alt") -> Reader:
    """The function that reads records of a format; made anew for each data set, since one of them remembers records.

    Args:
        format: A key of ``FORMATS``.
        zsre_target: For ``zsre_mend_eval``: which field is edited in.

    Raises:
        DataError: If there is no such format or target.
    """
    if zsre_target not in ("alt", "answers[0]"):
        raise DataError(f"`zsre_target` must be 'alt' or 'answers[0]', got {zsre_target!r}.")
    readers: dict[str, Reader] = {
        "jsonl": read_jsonl,
        "counterfact": read_counterfact,
        "multi_counterfact": read_counterfact,
        "counterfact-edit": read_counterfact_edit,
        "zsre_mend_eval": partial(read_zsre, target=zsre_target),
        "knowedit": read_knowedit,
        "qaedit": read_qaedit,
        "known_1000": partial(read_known, attributes={}),
    }
    if format not in readers:
        raise DataError(f"`format` must be 'auto' or one of {list(FORMATS)}, got {format!r}.")
    return readers[format]


def recognise(record: Record) -> str:
    """The format of a data set, from its first record.

    Raises:
        DataError: If it is none of ours.
    """
    values = record.values
    for format in ("counterfact", "zsre_mend_eval", "known_1000", "qaedit", "counterfact-edit"):
        if values.keys() >= set(FORMATS[format]):
            return format
    if values.keys() >= set(WIKIBIO):
        return "knowedit"
    if values.keys() >= set(FORMATS["jsonl"]):
        return "knowedit" if _is_knowedit(values) else "jsonl"
    known = "; ".join(f"{format}: {', '.join(fields)}" for format, fields in FORMATS.items())
    raise DataError(
        f"{record.place}: the format is not recognised. The row has the fields {sorted(map(str, values))}. The formats and the "
        f"fields that each needs are {known} (WikiBio: {', '.join(WIKIBIO)}). Rename the fields, or say with --data.format "
        "which format it is."
    )


def _is_knowedit(values: dict[str, Any]) -> bool:
    return not values.keys().isdisjoint({"ground_truth", "rephrase_prompt"}) or has_knowedit_probes(values)
