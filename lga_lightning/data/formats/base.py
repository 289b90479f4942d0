"""What a data format is: how its records are told from others, and how one becomes an edit request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest

# None: the record is sound, but no request can be made of it
Reader = Callable[[Record], EditRequest | Sequence[EditRequest] | None]


class Format:
    """A data format. A subclass whose constructor takes no arguments can be named on the command line by its path.

    Args:
        name: Name of the format, for messages and results.
        fields: Fields that every record of the format has.
        read: Function that makes an edit request of a :class:`~lga_lightning.data.records.Record`, or several that are edited
            together (with one ``group``), or returns None where the record is sound but gives no request. It raises :class:`~lga_lightning.exceptions.InvalidRequest` for a record that
            cannot be used.
        options: Names of the options of :func:`~lga_lightning.data.load_requests` that ``read`` takes as keywords.
        note: Choice of the reader without which numbers cannot be compared. It stands behind the data's name in result files;
            ``{option}`` stands for an option's value.
        unused: Fields of the format that hold nothing a request could use (numbers of cases, identifiers): any other field that
            ``read`` does not ask for is named in a warning. A field within an object has both names with a dot between.

    Attributes:
        no_request: Reason under which records are counted of which ``read`` gives None.

    Example:
        >>> def read(record):
        ...     return EditRequest(record.text("question"), record.text("about"), record.text("answer"))
        >>> trivia = Format("trivia", ("question", "about", "answer"), read)
        >>> trivia.matches({"question": "Who wrote Emma?", "about": "Emma", "answer": "Austen", "year": 1815})
        True
    """

    no_request = "no request can be made of it"

    def __init__(
        self,
        name: str,
        fields: Sequence[str],
        read: Callable[..., EditRequest | Sequence[EditRequest] | None],
        options: Sequence[str] = (),
        note: str = "",
        unused: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.fields = tuple(fields)
        self.read = read
        self.options = tuple(options)
        self.note = note
        self.unused = tuple(unused)

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether a record with these fields is of this format: by default, whether it has all of ``fields``."""
        return values.keys() >= set(self.fields)

    def reader(self, **options: Any) -> Reader:
        """A reader for one data set; a new one for each, so that it may remember records.

        Args:
            options: Values of ``options``.
        """
        return partial(self.read, **options) if options else self.read

    @property
    def signature(self) -> str:
        """The fields that tell the format, in words, for messages."""
        return ", ".join(self.fields)
