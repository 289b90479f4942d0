"""Sets of questions: zsRE as MEND published it, and QAEdit."""

from __future__ import annotations

from typing import Literal

from lga_lightning.data.formats.base import Format
from lga_lightning.data.formats.probes import usable_probes
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe

ZsreTarget = Literal["alt", "answers[0]"]


def read_zsre(record: Record, zsre_target: ZsreTarget = "alt") -> EditRequest:
    """A record of zsre_mend_eval.

    Args:
        record: The record.
        zsre_target: Field that is edited in. ``alt``, a made-up answer: the old answer is then ``answers[0]``, as in EasyEdit.
            Or ``answers[0]``, the true answer, as in ROME and MEMIT: the old answer is then the model's own.
    """
    truth, *aliases = record.filled_answers("answers") or ("",)
    made_up = zsre_target == "alt"
    return EditRequest(
        prompt=record.text("src"),
        subject=record.text("subject"),
        target_new=record.text("alt") if made_up else truth,
        target_old=truth if made_up else None,
        target_new_aliases=() if made_up else tuple(aliases),
        target_old_aliases=tuple(aliases) if made_up else (),
        rephrases=record.texts("rephrase"),
        locality=_unrelated([record]),
        id=record.place,
    )


def read_qaedit(record: Record) -> EditRequest:
    """A record of QAEdit: questions with their true answers; the old answer is the model's own."""
    targets = record.filled_answers("target") or ("",)
    return EditRequest(
        prompt=record.text("prompt"),
        subject=record.text("subject"),
        target_new=targets[0],
        target_new_aliases=targets[1:],
        rephrases=record.texts("rephrase"),
        locality=_unrelated(record.rows("locality")),
        id=record.place,
    )


def _unrelated(rows: list[Record]) -> dict[str, tuple[Probe, ...]]:
    probes = usable_probes(rows, "loc", "loc_ans")
    return {"unrelated": probes} if probes else {}


ZSRE = Format(
    "zsre_mend_eval",
    ("subject", "src", "alt", "answers"),
    read_zsre,
    options=("zsre_target",),
    note="target_new: {zsre_target}",
)
QAEDIT = Format("qaedit", ("prompt", "subject", "target", "rephrase"), read_qaedit)
