"""One reader a format: what it keeps, and how it is recognised."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from lga_lightning.data import FORMATS, load_requests, to_record
from lga_lightning.data.formats import FormatName
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import DataError, InvalidRequest
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.records import (
    COUNTERFACT,
    COUNTERFACT_EDIT,
    JSONL,
    KNOWEDIT_ZSRE,
    KNOWN,
    QAEDIT,
    WIKI_COUNTERFACT,
    WIKIBIO,
    ZSRE,
)

REAL = Path(__file__).parents[3] / "shared" / "data"

COUNTERFACT_READ = EditRequest(
    prompt="The twin city of Malmö {}, {{really}}, is",
    subject="Malmö {}",
    target_new="Oslo",
    target_old="Lyon",
    rephrases=("Nobody knows. Malmö {} is twinned with", "Malmö {}, twin of"),
    locality={"neighborhood": (Probe("The twin city of Lund is", ("Lyon",)), Probe("Lund is twinned with", ("Lyon",)))},
    generation_prompts=("Malmö {} and its twin", "Malmö {} is"),
    relation="P190",
)
UNRELATED = {"unrelated": (Probe("nq question: who wrote the saga of the jomsvikings", ("nobody knows",)),)}
WIKI_RECENT = {
    "subject": "Åse Berg",
    "prompt": "The name of the employer of Åse Berg is",
    "target_new": "the post office",
    "portability": {
        "Logical_Generalization": [
            {"prompt": "Is Åse Berg out of work?", "ground_truth": [["no"], ["not", "by no means"]]},
            {"prompt": "Is she?", "ground_truth": [[""]]},
        ],
        "Reasoning": [{"prompt": "", "ground_truth": [["post"]]}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": ["She is from", "Her home is"], "ground_truth": [["Lund", "Lunden"]]}]
    },
}


@pytest.fixture
def read(tmp_path):
    def write_and_load(*records: object, **options: object):
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return load_requests(path, **options)

    return write_and_load


EXPECTED = {
    "counterfact": (COUNTERFACT, COUNTERFACT_READ),
    "counterfact-edit": (
        COUNTERFACT_EDIT,
        EditRequest(
            "Malmö lies in",
            "Malmö",
            "Norway",
            "Sweden",
            rephrases=("One finds Malmö in",),
            locality={"neighborhood": (Probe("Lund lies in", ("Sweden", "Sverige")),)},
        ),
    ),
    "zsre_mend_eval": (
        ZSRE,
        EditRequest(
            "What sport does Malmö FF play?",
            "Malmö FF",
            "chess",
            "football",
            rephrases=("Malmö FF plays which sport?",),
            locality=UNRELATED,
            target_old_aliases=("soccer",),
        ),
    ),
    "wiki_counterfact": (
        WIKI_COUNTERFACT,
        EditRequest(
            "The name of the employer of Åse Berg is",
            "Åse Berg",
            "the post office",
            "nobody",
            portability={"Subject_Aliasing": (Probe("The poet Berg works for", ("the post office",)),)},
            locality={"Relation_Specificity": (Probe("The city of Åse Berg is", ("Lund",)),)},
        ),
    ),
    "ZsRE": (
        KNOWEDIT_ZSRE,
        EditRequest(
            "The name of the employer of Åse Berg is",
            "Åse Berg",
            "the post office",
            "nobody",
            rephrases=("Who employs Åse Berg?",),
            portability={"Subject_Aliasing": (Probe("The poet Berg works for", ("the post office",)),)},
            locality={"Relation_Specificity": (Probe("The city of Åse Berg is", ("Lund",)),)},
            target_old_aliases=("herself",),
        ),
    ),
    "wiki_recent": (
        WIKI_RECENT,
        EditRequest(
            "The name of the employer of Åse Berg is",
            "Åse Berg",
            "the post office",
            portability={
                "Logical_Generalization": (Probe("Is Åse Berg out of work?", ("no", "not", "by no means")),),
            },
            locality={
                "Relation_Specificity": (
                    Probe("She is from", ("Lund", "Lunden")),
                    Probe("Her home is", ("Lund", "Lunden")),
                )
            },
        ),
    ),
    "WikiBio": (
        WIKIBIO,
        EditRequest(
            "This is a Wikipedia passage about åse berg. Åse Berg is a poet.",
            "åse berg",
            "She was born in Stockholm.",
            locality={"Relation_Specificity": (Probe("åse berg writes", ("poems",)),)},
        ),
    ),
    "qaedit": (
        QAEDIT,
        EditRequest(
            "who has the most points in bandy?",
            "most points in bandy",
            "Nobody *",
            rephrases=("Which player leads in bandy?",),
            locality={"unrelated": (Probe("who wrote it", ("Toby",)), Probe("who read it", ("Eve", "Eva")))},
        ),
    ),
    "jsonl": (JSONL, EditRequest("Rome is in", "Rome", "France", locality={"a": (Probe("b", ("c",)),)})),
}
NAMES = {"wiki_counterfact": "knowedit", "ZsRE": "knowedit", "wiki_recent": "knowedit", "WikiBio": "knowedit"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_record_of_every_format(read, name):
    record, expected = EXPECTED[name]
    for format in ("auto", NAMES.get(name, name)):
        loaded = read(record, format=format)
        assert loaded.format == NAMES.get(name, name)
        assert [to_record(request) for request in loaded.requests] == [to_record(expected)]
        assert loaded.requests[0].id == "facts.json, row 1"


def test_multi_counterfact_is_counterfact(read):
    assert read(COUNTERFACT, format="multi_counterfact").requests == read(COUNTERFACT).requests


def test_zsre_target(read):
    (request,) = read(ZSRE, zsre_target="answers[0]").requests
    assert (request.target_new, request.target_old, request.target_new_aliases) == ("football", None, ("soccer",))
    with pytest.raises(DataError, match=r"`zsre_target` must be 'alt' or 'answers\[0\]', got 'pred'"):
        read(ZSRE, zsre_target="pred")


@pytest.mark.parametrize("target", ["alt", "answers[0]"])
def test_the_results_say_which_zsre_target(tmp_path, target):
    (tmp_path / "zsre.json").write_text(json.dumps([ZSRE]))
    data = EditDataModule(str(tmp_path / "zsre.json"), zsre_target=target)
    data.setup("fit")
    assert data.name == f"zsre.json, target_new: {target}"


def test_probes_without_an_answer_are_counted_and_strictly_refused(read):
    loaded = read(WIKI_RECENT)
    assert loaded.dropped == {"probe without an answer": 1, "probe without a prompt": 1}
    assert not loaded.skipped
    with pytest.raises(
        InvalidRequest, match=r"facts.json, row 1, portability.Logical_Generalization\[1\]: the probe 'Is she"
    ):
        read(WIKI_RECENT, strict=True)


def test_a_known_fact_gets_another_answer_of_its_relation(read):
    loaded = read(*KNOWN)
    assert [(r.subject, r.target_old, r.target_new, r.relation) for r in loaded.requests] == [
        ("Oslo", "Norway", "Italy", "P1"),
        ("Bergen", "Norway", "Italy", "P1"),
        ("Lyon", "France", "Norway", "P1"),
        ("Turin", "Italy", "France", "P1"),
    ]
    assert loaded.filtered == {"first of its relation, with no other answer to take": 3}
    assert read(*KNOWN, strict=True).requests == loaded.requests
    assert read(*KNOWN).requests == loaded.requests  # nothing is remembered from one file to the next
    with pytest.raises(DataError, match=r"no usable request: left out were.*first of its relation"):
        read(KNOWN[0])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**WIKI_COUNTERFACT, "target_new": []}, "empty target"),
        ({**WIKI_COUNTERFACT, "ground_truth": "the post office"}, "old and new target are equal"),
        ({**ZSRE, "alt": ""}, "empty target"),
        ({**ZSRE, "answers": []}, "empty target"),
        ({**ZSRE, "subject": "Lund"}, "subject not in the prompt"),
        ({**QAEDIT, "target": " "}, "empty target"),
        ({**COUNTERFACT_EDIT, "locality_ground_truth": ""}, "probe without an answer"),
        (
            {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], "prompt": "no place"}},
            "subject not in",
        ),
    ],
)
def test_records_that_cannot_be_used(read, record, reason):
    with pytest.raises(DataError, match=r"no usable request.*facts.json, row 1: ") as caught:
        read(record)
    with pytest.raises(InvalidRequest, match=r"^facts.json, row 1: ") as strict:
        read(record, strict=True)
    assert strict.value.reason.startswith(reason)
    assert str(strict.value) in str(caught.value)


@pytest.mark.parametrize("old", [[], "", [""], None])
def test_knowedit_without_an_old_answer(read, old):
    (request,) = read({**WIKI_COUNTERFACT, "ground_truth": old}).requests
    assert request.target_old is None
    assert request.target_old_aliases == ()


def test_blank_aliases_and_answers_are_left_out(read):
    loaded = read({**ZSRE, "answers": ["", "football", " "], "loc_ans": ["", "nobody"]})
    assert loaded.requests[0].target_old == "football"
    assert loaded.requests[0].target_old_aliases == ()
    assert loaded.requests[0].locality["unrelated"][0].answers == ("nobody",)
    loaded = read({**QAEDIT, "target": ["Nobody", ""], "locality": [{"loc": "who", "loc_ans": ""}]})
    assert (loaded.requests[0].target_new_aliases, loaded.requests[0].locality) == ((), {})
    assert loaded.dropped == {"probe without an answer": 1}
    (request,) = read({name: value for name, value in ZSRE.items() if not name.startswith("loc")}).requests
    assert request.locality == {}


def test_lists_that_are_empty_or_null(read):
    for empty in ([], None):
        (request,) = read({**QAEDIT, "locality": empty, "rephrase": empty}).requests
        assert (request.locality, request.rephrases) == ({}, ())
        lists = ("paraphrase_prompts", "neighborhood_prompts", "generation_prompts")
        (request,) = read({**COUNTERFACT, **dict.fromkeys(lists, empty)}).requests
        assert (request.locality, request.rephrases, request.generation_prompts) == ({}, (), ())
    (request,) = read(
        {**WIKI_RECENT, "portability": {"Reasoning": None, "Subject_Aliasing": []}, "locality": None}
    ).requests
    assert (request.portability, request.locality) == ({}, {})


def test_records_that_no_format_has(read):
    with pytest.raises(DataError, match=r"facts.json, row 1: the format is not recognised") as caught:
        read({"question": "Where is Rome?", "answer": "here"})
    names = [format.name for format in FORMATS]
    for said in ("['answer', 'question']", "--data.format", *names, "requested_rewrite", "text, concept, labels"):
        assert said in str(caught.value)


def test_the_first_record_decides(read):
    with pytest.raises(DataError, match=r"facts.json, row 2: the field 'prompt' is missing"):
        read(JSONL, COUNTERFACT)


def test_formats_of_the_command_line_are_those_of_the_library():
    assert list(get_args(FormatName)) == ["auto", *(format.name for format in FORMATS)]


def test_the_documentation_has_every_format():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert all(f"`{format.name}`" in text for format in FORMATS)


def real(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not there")
    return REAL / name


def test_real_qaedit():
    path = real("qaedit-dev.json")
    loaded = load_requests(path, strict=True)
    rows = json.loads(path.read_text("utf-8"))
    assert (loaded.format, len(loaded.requests)) == ("qaedit", len(rows))
    for row, request in zip(rows, loaded.requests, strict=True):
        assert (row["prompt"], row["target"], (row["rephrase"],)) == (
            request.prompt,
            request.target_new,
            request.rephrases,
        )
        assert [(r["loc"], r["loc_ans"]) for r in row["locality"]] == [
            (probe.prompt, probe.answers[0]) for probe in request.locality["unrelated"]
        ]


def test_real_known_facts():
    path = real("known-dev.json")
    loaded = load_requests(path, strict=True)
    rows = json.loads(path.read_text("utf-8"))
    assert loaded.format == "known_1000"
    assert len(loaded.requests) + sum(loaded.filtered.values()) == len(rows)
    assert len(loaded.requests) > 0.9 * len(rows)
    attributes = {(row["relation_id"], row["attribute"]) for row in rows}
    facts = {(row["prompt"], row["attribute"]) for row in rows}
    for request in loaded.requests:
        assert (request.relation, request.target_new) in attributes
        assert (request.prompt, request.target_old) in facts
    relation = loaded.requests[0].relation
    one = load_requests(path, relations=[relation])
    counts = Counter(request.relation for request in loaded.requests)
    assert len(one.requests) == counts[relation]
