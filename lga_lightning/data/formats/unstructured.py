"""Facts as paragraphs: UnKE (arXiv 2405.15349) and the unstructured side of AKEW (arXiv 2402.18909)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lga_lightning.data.formats.base import Format
from lga_lightning.data.formats.mquake import UNUSED, cloze_of, kept_hops, multi_hop
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import InvalidRequest


def read_unke(record: Record) -> EditRequest:
    """A record of UnKE: a question with a paragraph for an answer, and questions about what the paragraph says."""
    questions, answers = record.texts("sub_question"), record.texts("sub_answer")
    if len(questions) != len(answers):
        raise InvalidRequest(
            "as many questions as answers",
            f"`sub_question` and `sub_answer` must be lists of the same length, got {len(questions)} and {len(answers)}.",
        )
    probes = _probes(zip(questions, answers, strict=True))
    return EditRequest(
        prompt=record.text("question"),
        subject=None,
        target_new=record.text("answer"),
        rephrases=tuple(text for text in record.texts("para_question") if text.strip()),
        portability={"sub_question": probes} if probes else {},
        id=record.place,
    )


def read_akew(record: Record) -> list[EditRequest]:
    """A record of AKEW's CounterFact, MQuAKE-CF or WikiUpdate: the paragraphs are edited in, not the triples.

    The question (of CounterFact: the full prompt) is answered with the paragraph. The subject is kept where it stands in the
    question. What the paragraph says, as triples, is portability of the kind ``triplets``; the first request of a record also has
    its multi-hop questions. CounterFact's neighbourhood is locality, and so are MQuAKE's hops that no rewrite changes.
    """
    several = isinstance(record.values.get("requested_rewrite"), list)
    rewrites = record.rows("requested_rewrite") if several else [record.record("requested_rewrite")]
    requests = []
    for number, rewrite in enumerate(rewrites):
        prompt = rewrite.optional_text("prompt_full") or rewrite.text("question")
        subject = rewrite.text("subject")
        old = rewrite.record("target_true").text("str") if record.texts("neighborhood_prompts") else ""
        triples = rewrite.rows("unsfact_triplets_GPT")
        stated = _probes(
            (triple.text("prompt").replace("{}", triple.text("subject"), 1), triple.text("target"))
            for triple in triples
        )
        locality = {"neighborhood": tuple(Probe(text, (old,)) for text in record.texts("neighborhood_prompts"))}
        portability = {"triplets": stated}
        if number == 0:
            locality |= kept_hops(record, map(cloze_of, rewrites)) if record.rows("new_single_hops") else {}
            portability |= multi_hop(record)
        requests.append(
            EditRequest(
                prompt=prompt,
                subject=subject if subject.strip() and subject.strip() in prompt else None,
                target_new=rewrite.text("fact_new_uns"),
                rephrases=record.texts("paraphrase_prompts"),
                locality={kind: probes for kind, probes in locality.items() if probes},
                portability={kind: probes for kind, probes in portability.items() if probes},
                generation_prompts=record.texts("generation_prompts"),
                relation=rewrite.optional_text("relation_id"),
                group=record.place if len(rewrites) > 1 else None,
                id=record.place if len(rewrites) == 1 else f"{record.place}, rewrite {number + 1}",
            )
        )
    return requests


def _probes(pairs: Iterable[tuple[str, str]]) -> tuple[Probe, ...]:
    """A probe for each pair of a prompt and its answer, neither of them blank."""
    return tuple(Probe(prompt, (answer,)) for prompt, answer in pairs if prompt.strip() and answer.strip())


class Akew(Format):
    """AKEW's paragraphs. Its files are also CounterFact or MQuAKE, and are read as that unless this format is named."""

    def __init__(self) -> None:
        rewrite = ("prompt", "question", "fact_new", "target_new", "target_true", "time_new", "time_true", "subject_id")
        judged = ("verify_unsfact_GPT", "answer_GPT")
        unused = (
            *UNUSED,
            *(f"requested_rewrite.{name}" for name in (*rewrite, *judged)),
            *("pararel_idx", "attribute_prompts", "single_hops"),
        )
        super().__init__("akew", ("requested_rewrite",), read_akew, note="target_new: the paragraph", unused=unused)

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Never by itself."""
        return False

    @property
    def signature(self) -> str:
        """How it is chosen, in words."""
        return "by its name alone (requested_rewrite with fact_new_uns)"


UNKE = Format("unke", ("question", "para_question", "answer"), read_unke, unused=("id",))
AKEW = Akew()
