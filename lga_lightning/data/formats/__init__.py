"""From a record to an edit request: the formats that are known by name, one file each or one for its relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lga_lightning.data.formats.base import Format
from lga_lightning.data.formats.counterfact import COUNTERFACT, COUNTERFACT_EDIT, MULTI_COUNTERFACT
from lga_lightning.data.formats.jsonl import JSONL, to_record
from lga_lightning.data.formats.knowedit import KNOWEDIT
from lga_lightning.data.formats.known import KNOWN_1000
from lga_lightning.data.formats.mquake import MQUAKE
from lga_lightning.data.formats.questions import QAEDIT, ZSRE, ZsreTarget
from lga_lightning.data.formats.ripple import RIPPLE
from lga_lightning.data.formats.unstructured import AKEW, UNKE
from lga_lightning.data.formats.wikibigedit import WIKIBIGEDIT
from lga_lightning.data.records import Record
from lga_lightning.exceptions import DataError

__all__ = ["FORMATS", "Format", "FormatName", "ZsreTarget", "find_format", "recognise", "to_record"]

# in the order in which they are tried on a record of an unknown format: those with the most special fields come first
FORMATS: tuple[Format, ...] = (
    MQUAKE,
    AKEW,
    COUNTERFACT,
    MULTI_COUNTERFACT,
    RIPPLE,
    UNKE,
    ZSRE,
    KNOWN_1000,
    QAEDIT,
    COUNTERFACT_EDIT,
    WIKIBIGEDIT,
    KNOWEDIT,
    JSONL,
)

if TYPE_CHECKING:
    FormatName = str
else:  # the choices of the command line
    NAMES = ("auto", *(format.name for format in FORMATS))
    FormatName = Literal[NAMES]


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        DataError: If there is none.
    """
    formats = {format.name: format for format in FORMATS}
    if name not in formats:
        raise DataError(f"`format` must be 'auto', one of {list(formats)}, or a Format of your own, got {name!r}.")
    return formats[name]


def recognise(record: Record) -> Format:
    """The format of a data set, from its first record.

    Raises:
        DataError: If it is none of ours.
    """
    for format in FORMATS:
        if format.matches(record.values):
            return format
    known = "; ".join(f"{format.name}: {format.signature}" for format in FORMATS)
    raise DataError(
        f"{record.place}: the format is not recognised. The row has the fields {sorted(map(str, record.values))}. The formats "
        f"and the fields that tell them are {known}. Rename the fields, say with --data.format which format it is, or give a "
        "Format of your own there."
    )
