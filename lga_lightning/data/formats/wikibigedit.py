"""WikiBigEdit: facts of Wikidata that changed between two dates, as questions (arXiv 2503.05683)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lga_lightning.data.formats.base import Format
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import InvalidRequest

PUBLISHED = ("update", "ans", "subject")
LABEL = "Reformulated Question:"  # of whatever wrote the set's rephrases; some rows have nothing behind it
FLAT = ("prompt", "target_new", "subject", "rephrase_prompt", "locality_prompt", "locality_ground_truth")


def read_wikibigedit(record: Record) -> EditRequest:
    """A record as it was published, or as toolkits rename its fields. There is no old answer: the model's own serves.

    The locality question asks for the same relation of another subject. The question of a persona has the new answer too, but
    counts apart from the rephrase, as in the paper.
    """
    published = "update" in record.values
    prompt, answer, rephrase = (
        ("update", "ans", "rephrase") if published else ("prompt", "target_new", "rephrase_prompt")
    )
    near = ("loc", "loc_ans") if published else ("locality_prompt", "locality_ground_truth")
    persona = "personas" if published else "portability_personas"
    hops = ("mhop", "mhop_ans") if published else ("portability_hop", "portability_hop_ans")
    target, *aliases = record.filled_answers(answer) or ("",)
    portability = {
        "persona": tuple(Probe(text, (target, *aliases)) for text in filled(record.texts(persona)) if target.strip()),
        "multi_hop": paired(record, *hops),
    }
    locality = {"other_subject": paired(record, *near)}
    return EditRequest(
        prompt=record.text(prompt),
        subject=record.text("subject"),
        target_new=target,
        target_new_aliases=tuple(aliases),
        rephrases=rephrases(record, rephrase),
        locality={kind: probes for kind, probes in locality.items() if probes},
        portability={kind: probes for kind, probes in portability.items() if probes},
        relation=record.optional_text("relation"),
        id=record.place,
    )


def filled(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some texts that are not blank."""
    return tuple(text for text in texts if text.strip())


def rephrases(record: Record, field: str) -> tuple[str, ...]:
    """The rephrases that are more than their label; the others are noted as dropped."""
    texts = filled(record.texts(field))
    asked = tuple(text for text in texts if text.replace(LABEL, "").strip())
    detail = f"{record.place}: the field {field!r} has nothing behind {LABEL!r}."
    record.dropped += [InvalidRequest("rephrase without a question", detail)] * (len(texts) - len(asked))
    return asked


def paired(record: Record, prompt: str, answer: str) -> tuple[Probe, ...]:
    """A probe of two fields, where both hold something: not every record has one."""
    answers = record.optional_answers(answer)
    return tuple(Probe(text, answers) for text in filled(record.texts(prompt)) if answers)


class WikiBigEdit(Format):
    """WikiBigEdit, whose renamed form has the fields of CounterFact's without an old answer."""

    def __init__(self) -> None:
        super().__init__("wikibigedit", PUBLISHED, read_wikibigedit, unused=("tag", "object", "case_id"))

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether a record has the published fields, or the renamed ones and no old answer."""
        renamed = values.keys() >= set(FLAT) and "ground_truth" not in values
        return super().matches(values) or renamed

    @property
    def signature(self) -> str:
        """The fields of both forms, in words."""
        return f"{', '.join(PUBLISHED)}, or {', '.join(FLAT)} without ground_truth"


WIKIBIGEDIT = WikiBigEdit()
