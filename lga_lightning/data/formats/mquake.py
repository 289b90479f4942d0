"""MQuAKE (arXiv 2305.14795) and MQuAKE-Remastered: rewrites that belong together, and multi-hop questions about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lga_lightning.data.formats.base import Format
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe

UNUSED = (
    "case_id",
    "orig",
    "answer",
    "answer_alias",
    "answer_extended",
    "requested_rewrite.target_new.id",
    "requested_rewrite.target_true.id",
    "single_hops.question",
    "new_single_hops.question",
)


def read_mquake(record: Record) -> list[EditRequest]:
    """The rewrites of a record, one group; its questions and the hops that stay as they are go with the first.

    A rewrite's question is a rephrase of it; aliases come from the hop with the same cloze. The multi-hop questions, all with one
    answer, are portability of the kind ``<n>_hops``. Hops of the new chain that no rewrite changes are locality.
    """
    rewrites = record.rows("requested_rewrite")
    old_hops, new_hops = _hops(record, "single_hops"), _hops(record, "new_single_hops")
    prompts = [cloze_of(rewrite) for rewrite in rewrites]
    requests = []
    for number, (rewrite, prompt) in enumerate(zip(rewrites, prompts, strict=True)):
        first = number == 0
        new, old = (rewrite.record(side).text("str") for side in ("target_new", "target_true"))
        question = rewrite.optional_text("question") or ""
        requests.append(
            EditRequest(
                prompt=prompt,
                subject=rewrite.text("subject"),
                target_new=new,
                target_old=old,
                target_new_aliases=_aliases(new_hops, prompt, new),
                target_old_aliases=_aliases(old_hops, prompt, old),
                rephrases=(question,) if question.strip() else (),
                locality=kept_hops(record, prompts) if first else {},
                portability=multi_hop(record) if first else {},
                relation=rewrite.optional_text("relation_id"),
                group=record.place if len(rewrites) > 1 else None,
                id=record.place if len(rewrites) == 1 else f"{record.place}, rewrite {number + 1}",
            )
        )
    return requests


def cloze_of(rewrite: Record) -> str:
    """The beginning of the sentence that a rewrite changes, with its subject."""
    return rewrite.text("prompt").replace("{}", rewrite.text("subject"), 1)


def kept_hops(record: Record, rewritten: Iterable[str]) -> dict[str, tuple[Probe, ...]]:
    """The hops of a record's new chain that none of its rewrites changes, as probes of the kind ``kept_hop``."""
    changed = {cloze.strip() for cloze in rewritten}
    hops = _hops(record, "new_single_hops").items()
    kept = tuple(Probe(cloze, answers) for cloze, answers in hops if cloze not in changed)
    return {"kept_hop": kept} if kept else {}


def multi_hop(record: Record) -> dict[str, tuple[Probe, ...]]:
    """The questions over several hops of a record, under the number of its hops."""
    answers = (*record.optional_answers("new_answer"), *record.optional_answers("new_answer_alias"))
    questions = tuple(question for question in record.texts("questions") if question.strip())
    hops = len(record.rows("new_single_hops"))
    return {f"{hops}_hops": tuple(Probe(text, answers) for text in questions)} if answers and questions else {}


def _hops(record: Record, name: str) -> dict[str, tuple[str, ...]]:
    """By cloze, the answers of a chain's hops, those without an answer left out."""
    found = {
        hop.text("cloze").strip(): (*hop.filled_answers("answer"), *hop.optional_answers("answer_alias"))
        for hop in record.rows(name)
    }
    return {cloze: answers for cloze, answers in found.items() if cloze and answers}


def _aliases(hops: Mapping[str, tuple[str, ...]], prompt: str, answer: str) -> tuple[str, ...]:
    """What else a hop accepts, if it is about this very answer."""
    answers = hops.get(prompt.strip(), ())
    return tuple(other for other in answers if other != answer) if answer in answers else ()


class MQuAKE(Format):
    """MQuAKE, told from CounterFact by a list of rewrites."""

    def __init__(self) -> None:
        super().__init__("mquake", ("requested_rewrite", "questions", "new_answer"), read_mquake, unused=UNUSED)

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether a record has a list of rewrites."""
        return super().matches(values) and isinstance(values["requested_rewrite"], list)


MQUAKE = MQuAKE()
