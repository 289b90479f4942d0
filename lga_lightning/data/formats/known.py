"""known_1000: facts that a model knows, made for causal tracing."""

from __future__ import annotations

from functools import partial
from typing import Any

from lga_lightning.data.formats.base import Format, Reader
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest


def read_known(record: Record, attributes: dict[str, list[str]]) -> EditRequest | None:
    """A record of known_1000.

    The set has no new answers. As in CounterFact, a fact gets one of its own relation: the latest in the file so far that
    differs from its own.

    Args:
        record: The record.
        attributes: By relation, the last two different attributes so far; brought up to date here.

    Returns:
        The request; None where the file has had no other answer of the relation so far.
    """
    attribute, relation = record.text("attribute"), record.optional_text("relation_id")
    others = [other for other in attributes.get(relation or "", []) if other != attribute]
    attributes[relation or ""] = [*others[-1:], attribute]
    if not others:
        return None
    return EditRequest(
        prompt=record.text("prompt"),
        subject=record.text("subject"),
        target_new=others[-1],
        target_old=attribute,
        relation=relation,
        id=record.place,
    )


class Known1000(Format):
    """known_1000, whose reader remembers the answers of each relation."""

    no_request = "first of its relation, with no other answer to take"

    def __init__(self) -> None:
        super().__init__(
            "known_1000",
            ("prompt", "subject", "attribute", "template"),
            read_known,
            note="target_new: the attribute of another fact of the relation",
            unused=("known_id", "template", "prediction"),
        )

    def reader(self, **options: Any) -> Reader:
        """A reader that has seen no record yet."""
        return partial(self.read, attributes={}, **options)


KNOWN_1000 = Known1000()
