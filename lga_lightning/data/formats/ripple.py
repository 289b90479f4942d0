"""RippleEdits (arXiv 2307.12976): one edit as a sentence, and six kinds of tests of what follows from it and what does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from lga_lightning.data.formats.base import Format
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import InvalidRequest

PORTABILITY = ("Logical_Generalization", "Subject_Aliasing", "Compositionality_I", "Compositionality_II")
SPECIFICITY = ("Relation_Specificity", "Relation_Specifity")  # the second as the set's own page spells it
LOCALITY = (*SPECIFICITY, "Forgetfulness")
VERBS = ("is", "are", "follows", "by")  # with which the set's prompts end
AROUND = (  # a subject that does not stand right before the verb
    r"which (.+) (?:is associated with|plays in|is a member of|is part of|is the capital of) is",
    r"(?:award|children) (.+) (?:won|has) is",
    r"(.+?) (?:follows|is followed by)",
)


def read_ripple(record: Record) -> EditRequest:
    """A record of the subsets popular, random or recent; recent has no old fact.

    The set gives the fact as a sentence and names its subject and target by their numbers alone. So the sentence is cut into prompt
    and target where the target's label (from a test whose answer it is) begins, or else behind the verb. Of the subject the last
    words are certain, and it is those that count.

    Every query of a test is a probe of its own, whatever ``test_condition`` says, and all its answers count. The queries that the paper asks
    the unedited model beforehand (``condition_queries``) give the labels and are not asked.
    """
    edit = record.record("edit")
    old_name = "original_fact" if "original_fact" in edit.values else "previous_fact"
    old = edit.record(old_name).text("prompt") if edit.values.get(old_name) else None
    queries = {kind: list(_queries(record, kind, "test_queries")) for kind in (*PORTABILITY, *LOCALITY)}
    everywhere = [q for kind in queries for q in (*queries[kind], *_queries(record, kind, "condition_queries"))]
    label, *aliases = _label(everywhere, edit.values.get("target_id"))
    sentence = _without_stop(edit.text("prompt"))
    prompt = cut(sentence, label, old)
    old_target = _without_stop(old).removeprefix(prompt).strip() if old and old.startswith(prompt) else None
    target = sentence.removeprefix(prompt).strip()
    named = [q for kind in SPECIFICITY for q in queries[kind]]  # other kinds rename the subject, or repeat the fact
    peers = [q.text("prompt") for q in named if q.values.get("subject_id") == edit.values.get("subject_id")]
    return EditRequest(
        prompt=prompt,
        subject=subject_of(prompt, peers),
        target_new=target,
        target_old=old_target or None,
        target_new_aliases=tuple(alias for alias in aliases if target == label),
        locality=_probes(queries, LOCALITY),
        portability=_probes(queries, PORTABILITY),
        relation=edit.optional_text("relation"),
        id=record.place,
    )


def cut(sentence: str, label: str, old: str | None) -> str:
    """The prompt that a fact's sentence begins with.

    Args:
        sentence: The fact, without its full stop.
        label: The target's label; "" where no test names it.
        old: The old fact's sentence, which has the same prompt; None where there is none.

    Raises:
        InvalidRequest: If the sentence has neither the label at its end nor a verb.

    Example:
        >>> cut("The capital of Peru is United Arab Emirates", "", "The capital of Peru is United Kingdom.")
        'The capital of Peru is'
    """
    if label and sentence.endswith(f" {label}"):
        return sentence.removesuffix(label).rstrip()
    words = sentence.split(" ")
    shared = sentence if old is None else " ".join((*_shared(words, old.split(" ")), ""))
    ends = [match.end() for match in re.finditer(rf"\b(?:{'|'.join(VERBS)})(?= )", shared)]
    if not ends:
        raise InvalidRequest(
            "no prompt in the sentence",
            f"The fact {sentence!r} does not end with its target's label and has none of the verbs {list(VERBS)}, so it cannot be "
            "cut into a prompt and a target.",
        )
    return sentence[: ends[-1]]


def subject_of(prompt: str, peers: Sequence[str]) -> str | None:
    """What a prompt is about: the most that stands behind one of its prepositions, before the verb, and in all other prompts about it.

    Args:
        prompt: The prompt, which ends with a verb.
        peers: Other prompts about its subject.

    Example:
        >>> subject_of("The country of citizenship of Joan of Arc is", ["The name of the mother of Joan of Arc is"])
        'Joan of Arc'
    """
    for pattern in AROUND:
        found = re.search(rf"\b{pattern}$", prompt)
        if found:
            return found[1]
    stem, others = prompt.split()[:-1], [text for text in peers if text != prompt]
    ends = [" ".join(stem[number + 1 :]) for number, word in enumerate(stem[:-1]) if word in ("of", "in", "by")]
    last = ends[-1] if ends else None
    return next((end for end in ends if others and all(end in text for text in others)), last)


def _shared(words: list[str], others: list[str]) -> list[str]:
    """The words with which two lists begin alike."""
    return [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, others, strict=False))]


def _queries(record: Record, kind: str, name: str) -> Iterator[Record]:
    for test in record.rows(kind):
        yield from test.rows(name)


def _answers(query: Record) -> list[tuple[str, ...]]:
    """By target, its label and its other names."""
    return [(answer.text("value"), *answer.texts("aliases")) for answer in query.rows("answers")]


def _label(queries: Sequence[Record], target: object) -> tuple[str, ...]:
    """A target's label and its other names, from the first query whose answer it is; one empty label where none is."""
    for query in queries:
        ids = query.values.get("second_hop_target_ids") or query.values.get("target_ids") or []
        for number, names in zip(ids if isinstance(ids, list) else [ids], _answers(query), strict=False):
            if number == target and names[0].strip():
                return tuple(name for name in names if name.strip())
    return ("",)


def _probes(queries: dict[str, list[Record]], kinds: Sequence[str]) -> dict[str, tuple[Probe, ...]]:
    found: dict[str, tuple[Probe, ...]] = {}
    for kind in kinds:
        probes = []
        for query in queries[kind]:
            answers = tuple(name for names in _answers(query) for name in names if name.strip())
            if answers and query.text("prompt").strip():
                probes.append(Probe(query.text("prompt"), answers))
            else:
                reason = "probe without an answer" if query.text("prompt").strip() else "probe without a prompt"
                query.dropped.append(
                    InvalidRequest(reason, f"{query.place}: the probe has the answers {list(answers)}.")
                )
        if probes:
            found[kind.replace("Specifity", "Specificity")] = tuple(probes)
    return found


def _without_stop(sentence: str) -> str:
    return sentence.strip().removesuffix(".")


_IDS = ("query_type", "subject_id", "relation", "target_ids", "phrase", "second_relation", "second_hop_target_ids")
_TESTS = (
    "test_condition",
    *(f"test_queries.{name}" for name in _IDS),
    *(f"condition_queries.{name}" for name in (*_IDS, "prompt", "answers", "answers.value", "answers.aliases")),
)
_FACT = ("subject_id", "target_id", "relation")
RIPPLE = Format(
    "rippleedits",
    ("edit", "Subject_Aliasing", "Compositionality_I"),
    read_ripple,
    unused=(
        "example_type",
        *(f"{kind}.{name}" for kind in (*PORTABILITY, *LOCALITY) for name in _TESTS),
        *(f"edit{old}.{name}" for old in ("", ".original_fact", ".previous_fact") for name in _FACT),
    ),
)
