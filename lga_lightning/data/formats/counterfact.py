"""CounterFact, as ROME published it and as EasyEdit flattened it."""

from __future__ import annotations

from lga_lightning.data.formats.base import Format
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe


def read_counterfact(record: Record) -> EditRequest:
    """CounterFact and its multi-token sibling: a template with one ``{}``, which stands for the subject.

    ``attribute_prompts`` are left out: they ask other subjects for the new answer, which is neither locality nor portability.
    """
    rewrite = record.record("requested_rewrite")
    subject, old = rewrite.text("subject"), rewrite.record("target_true").text("str")
    return EditRequest(
        prompt=rewrite.text("prompt").replace("{}", subject, 1),
        subject=subject,
        target_new=rewrite.record("target_new").text("str"),
        target_old=old,
        rephrases=record.texts("paraphrase_prompts"),
        locality=_neighborhood(record.texts("neighborhood_prompts"), (old,)),
        generation_prompts=record.texts("generation_prompts"),
        relation=rewrite.optional_text("relation_id"),
        id=record.place,
    )


def read_counterfact_edit(record: Record) -> EditRequest:
    """EasyEdit's CounterFact: the prompt filled in, one rephrase, one locality probe."""
    prompts = record.texts("locality_prompt")
    return EditRequest(
        prompt=record.text("prompt"),
        subject=record.text("subject"),
        target_new=record.text("target_new"),
        target_old=record.optional_text("ground_truth"),
        rephrases=record.texts("rephrase_prompt"),
        locality=_neighborhood(prompts, record.answers("locality_ground_truth") if prompts else ()),
        id=record.place,
    )


def _neighborhood(prompts: tuple[str, ...], answers: tuple[str, ...]) -> dict[str, tuple[Probe, ...]]:
    return {"neighborhood": tuple(Probe(prompt, answers) for prompt in prompts)} if prompts else {}


UNUSED = (
    "case_id",
    "pararel_idx",
    "attribute_prompts",
    "requested_rewrite.target_new.id",
    "requested_rewrite.target_true.id",
)
COUNTERFACT = Format("counterfact", ("requested_rewrite",), read_counterfact, unused=UNUSED)
MULTI_COUNTERFACT = Format("multi_counterfact", ("requested_rewrite",), read_counterfact, unused=UNUSED)
COUNTERFACT_EDIT = Format(
    "counterfact-edit",
    ("prompt", "subject", "target_new", "ground_truth", "locality_prompt"),
    read_counterfact_edit,
    unused=("case_id",),
)
