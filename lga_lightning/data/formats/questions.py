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
        zsre_target: Field that is edited in. ``alt``, as a rule a made-up answer: the old answer is then ``answers[0]``, as in
            EasyEdit; but where ``alt`` is one of the true answers, ``pred``, which it replaces (``cond`` says so), or the model's
            own. Or ``answers[0]``, the true answer, as in ROME and MEMIT: the old answer is then the model's own.
    """
    answers = record.filled_answers("answers") or ("",)
    new = record.text("alt") if zsre_target == "alt" else answers[0]
    made_up = new.strip() not in map(str.strip, answers)
    old: tuple[str, ...] = answers if made_up else ()
    if zsre_target == "alt" and not made_up:
        old = tuple(text for text in record.texts("pred") if text.strip() not in ("", new.strip()))
    return EditRequest(
        prompt=record.text("src"),
        subject=record.text("subject"),
        target_new=new,
        target_old=old[0] if old else None,
        target_new_aliases=() if made_up else tuple(a for a in answers if a.strip() != new.strip()),
        target_old_aliases=old[1:],
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
    unused=("alt", "pred", "cond", "case_id"),
)
QAEDIT = Format("qaedit", ("prompt", "subject", "target", "rephrase"), read_qaedit, unused=("id", "source"))
