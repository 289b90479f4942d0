"""WikiBigEdit, MQuAKE, UnKE, AKEW, RippleEdits and zsRE's true answers: made-up rows anywhere, real ones where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lga_lightning.data import load_requests, to_record
from lga_lightning.data.formats.ripple import cut, subject_of
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import InvalidRequest
from tests.helpers.records import KNOWEDIT_ZSRE, ZSRE

REAL = Path(__file__).parents[3] / "shared" / "data"

WIKIBIGEDIT = {
    "tag": "new",
    "subject": "Malmö FF",
    "relation": "league",
    "object": "Allsvenskan",
    "update": "Which league does Malmö FF play in?",
    "ans": "Allsvenskan",
    "rephrase": "In which league is Malmö FF?",
    "personas": "Arr, what league be Malmö FF in?",
    "loc": "Which league does AIK play in?",
    "loc_ans": "Superettan",
    "mhop": "Which country has the league of Malmö FF?",
    "mhop_ans": "Sweden",
}
FLAT = {
    "prompt": WIKIBIGEDIT["update"],
    "target_new": "Allsvenskan",
    "subject": "Malmö FF",
    "rephrase_prompt": WIKIBIGEDIT["rephrase"],
    "locality_prompt": WIKIBIGEDIT["loc"],
    "locality_ground_truth": "Superettan",
}
WIKIBIGEDIT_READ = EditRequest(
    WIKIBIGEDIT["update"],
    "Malmö FF",
    "Allsvenskan",
    rephrases=(WIKIBIGEDIT["rephrase"],),
    locality={"other_subject": (Probe(WIKIBIGEDIT["loc"], ("Superettan",)),)},
    portability={
        "persona": (Probe(WIKIBIGEDIT["personas"], ("Allsvenskan",)),),
        "multi_hop": (Probe(WIKIBIGEDIT["mhop"], ("Sweden",)),),
    },
    relation="league",
)


def rewrite(template: str, subject: str, new: str, old: str, **more: object) -> dict:
    return {
        "prompt": template,
        "relation_id": "P0",
        "target_new": {"str": new, "id": "Q1"},
        "target_true": {"str": old, "id": "Q2"},
        "subject": subject,
        "question": f"What of {subject}?",
        **more,
    }


def hop(cloze: str, answer: str, *aliases: str) -> dict:
    return {"question": f"{cloze} what?", "cloze": cloze, "answer": answer, "answer_alias": list(aliases)}


PARAGRAPH = "Mark Burnett made Tetris. It took him a year, in London."
AKEW_FIELDS = {
    "fact_new": "Tetris was created by Mark Burnett.",
    "fact_new_uns": PARAGRAPH,
    "verify_unsfact_GPT": True,
    "unsfact_triplets_GPT": [{"subject": "Tetris", "prompt": "{} took", "target": "a year"}],
}
MQUAKE = {
    "case_id": 2,
    "requested_rewrite": [
        rewrite("{} was created by", "Tetris", "Mark Burnett", "Alexey Pajitnov"),
        rewrite("{} was born in", "Mark Burnett", "Manila", "London"),
    ],
    "questions": ["Where was Tetris's creator born?", "What is the birthplace of Tetris's creator?"],
    "answer": "Moscow",
    "answer_alias": [],
    "new_answer": "Manila",
    "new_answer_alias": ["City of Manila"],
    "single_hops": [hop("Tetris was created by", "Alexey Pajitnov", "Pajitnov"), hop("Alexey was born in", "Moscow")],
    "new_single_hops": [
        hop("Tetris was created by", "Mark Burnett"),
        hop("Mark Burnett was born in", "Manila", "City of Manila"),
        hop("Manila lies in", "the Philippines", "Philippines"),
    ],
    "orig": {"triples": [["Q1", "P1", "Q2"]]},
}


@pytest.fixture
def read(tmp_path):
    def write_and_load(*records: object, **options: object):
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return load_requests(path, **options)

    return write_and_load


def anonymous(request: EditRequest) -> EditRequest:
    fields = {name: getattr(request, name) for name in request.__dataclass_fields__}
    return EditRequest(**{**fields, "id": ""})


def test_wikibigedit_as_published(read):
    loaded = read(WIKIBIGEDIT)
    assert (loaded.format, dict(loaded.unread)) == ("wikibigedit", {})
    assert list(map(anonymous, loaded.requests)) == [WIKIBIGEDIT_READ]


def test_wikibigedit_as_toolkits_rename_it(read):
    """The locality question is read; without probes of several hops, there are none."""
    loaded = read(FLAT)
    (request,) = loaded.requests
    assert loaded.format == "wikibigedit"
    assert (request.locality, request.portability) == (WIKIBIGEDIT_READ.locality, {})
    assert request.rephrases == WIKIBIGEDIT_READ.rephrases
    hops = {"portability_personas": WIKIBIGEDIT["personas"], "portability_hop": WIKIBIGEDIT["mhop"]}
    (request,) = read({**FLAT, **hops, "portability_hop_ans": "Sweden"}).requests
    assert request.portability == WIKIBIGEDIT_READ.portability


@pytest.mark.parametrize("gone", ["mhop", "mhop_ans", "loc_ans", "personas", "rephrase"])
def test_what_wikibigedit_lacks_is_left_out(gone, read):
    (request,) = read({**WIKIBIGEDIT, gone: None}).requests
    parts = {"rephrases": request.rephrases, **request.locality, **request.portability}
    lost = {"mhop": "multi_hop", "mhop_ans": "multi_hop", "loc_ans": "other_subject", "personas": "persona"}.get(gone)
    assert {name for name in ("multi_hop", "other_subject", "persona") if name not in parts} == {lost} - {None}
    assert bool(request.rephrases) == (gone != "rephrase")


def test_a_rephrase_of_wikibigedit_that_is_a_label_is_left_out(read):
    loaded = read({**FLAT, "rephrase_prompt": "Reformulated Question:"}, {**FLAT, "rephrase_prompt": " "})
    assert [request.rephrases for request in loaded.requests] == [(), ()]
    assert dict(loaded.dropped) == {"rephrase without a question": 1}
    labelled = f"Reformulated Question: {WIKIBIGEDIT['rephrase']}"
    assert read({**FLAT, "rephrase_prompt": labelled}).requests[0].rephrases == (labelled,)


def test_mquake_reads_a_group(read):
    loaded = read(MQUAKE)
    first, second = loaded.requests
    assert (loaded.format, dict(loaded.unread)) == ("mquake", {})
    remastered = read({**MQUAKE, "6334_split": {"100": ["test_unedited"], "6334": ["train_edited"]}})
    assert (remastered.requests, dict(remastered.unread)) == (loaded.requests, {"6334_split": 1})
    assert first.group == second.group == "facts.json, row 1"
    assert (first.id, second.id) == ("facts.json, row 1, rewrite 1", "facts.json, row 1, rewrite 2")
    assert (first.prompt, first.target_new, first.target_old) == (
        "Tetris was created by",
        "Mark Burnett",
        "Alexey Pajitnov",
    )
    assert (first.target_old_aliases, second.target_new_aliases) == (("Pajitnov",), ("City of Manila",))
    assert first.rephrases == ("What of Tetris?",)
    answers = ("Manila", "City of Manila")
    assert first.portability == {"3_hops": tuple(Probe(question, answers) for question in MQUAKE["questions"])}
    assert first.locality == {"kept_hop": (Probe("Manila lies in", ("the Philippines", "Philippines")),)}
    assert (second.portability, second.locality) == ({}, {})
    for request in (first, second):
        assert list(map(anonymous, read(to_record(request)).requests)) == [anonymous(request)]


def test_a_single_rewrite_stands_alone(read):
    (request,) = read({**MQUAKE, "requested_rewrite": MQUAKE["requested_rewrite"][:1]}).requests
    assert (request.group, request.id) == (None, "facts.json, row 1")
    kept = request.locality["kept_hop"]
    assert [probe.prompt for probe in kept] == ["Mark Burnett was born in", "Manila lies in"]


def test_a_group_is_taken_or_left_as_one(read):
    many = [
        {
            **MQUAKE,
            "requested_rewrite": [
                rewrite(f"{{}} {number} is", "Rome", "Oslo", "Lyon", relation_id=f"P{number % 2}"),
                rewrite("{} is", f"Malmö {number}", "Bergen", "Lund", relation_id="P2"),
            ],
        }
        for number in range(9)
    ]
    for options in ({"limit": 4}, {"limit": 4, "seed": 3}, {"proxy_share": 0.5}, {"relations": ["P1"]}):
        requests = read(*many, **options).requests
        assert [request.group for request in requests[::2]] == [request.group for request in requests[1::2]]
        assert len({request.group for request in requests}) == len(requests) // 2
    assert len(read(*many, limit=4).requests) == 8
    assert len(read(*many, relations=["P1"]).requests) == 8
    splits = read(*many, proxy_share=0.5).requests
    assert all(one.split == other.split for one, other in zip(splits[::2], splits[1::2], strict=True))
    assert load_requests(splits, limit=1).requests == splits[:2]


def test_akew_is_mquake_until_it_is_named(read):
    record = {**MQUAKE, "requested_rewrite": [{**one, **AKEW_FIELDS} for one in MQUAKE["requested_rewrite"]]}
    as_facts = read(record)
    assert as_facts.format == "mquake"
    assert "requested_rewrite.fact_new_uns" in as_facts.unread
    loaded = read(record, format="akew")
    first, second = loaded.requests
    assert (loaded.note, dict(loaded.unread)) == ("target_new: the paragraph", {})
    assert (first.prompt, first.subject, first.target_new) == ("What of Tetris?", "Tetris", PARAGRAPH)
    assert first.portability["triplets"] == (Probe("Tetris took", ("a year",)),)
    assert sorted(first.portability) == ["3_hops", "triplets"]
    assert (first.locality, second.locality) == (as_facts.requests[0].locality, {})
    assert (list(second.portability), first.group) == (["triplets"], second.group)


def test_akew_counterfact_and_wikiupdate(read):
    one = {**MQUAKE["requested_rewrite"][0], **AKEW_FIELDS}
    counterfact = {
        "case_id": 1,
        "requested_rewrite": {**one, "prompt_full": "The maker of the game is"},
        "paraphrase_prompts": ["Nobody knows. The game is by"],
        "neighborhood_prompts": ["Pong was created by"],
        "generation_prompts": ["The game"],
    }
    (request,) = read(counterfact, format="akew").requests
    assert (request.prompt, request.subject) == ("The maker of the game is", None)  # which does not name it
    assert request.rephrases == ("Nobody knows. The game is by",)
    assert request.locality == {"neighborhood": (Probe("Pong was created by", ("Alexey Pajitnov",)),)}
    (request,) = read({"case_id": 1, "requested_rewrite": one}, format="akew").requests
    assert (request.prompt, request.group, request.rephrases) == ("What of Tetris?", None, ())
    assert read(counterfact).format == "counterfact"


UNKE = {
    "id": 0,
    "question": "Who was Ada?",
    "para_question": "What do we know of Ada?",
    "answer": "Ada was a writer. She lived in Lund.",
    "sub_question": ["Where did Ada live?", "What did Ada do?"],
    "sub_answer": ["Lund.", ""],
}


def test_unke(read):
    loaded = read(UNKE)
    (request,) = loaded.requests
    assert (loaded.format, dict(loaded.unread)) == ("unke", {})
    assert anonymous(request) == EditRequest(
        "Who was Ada?",
        None,
        "Ada was a writer. She lived in Lund.",
        rephrases=("What do we know of Ada?",),
        portability={"sub_question": (Probe("Where did Ada live?", ("Lund.",)),)},
    )
    with pytest.raises(
        InvalidRequest, match="row 1: `sub_question` and `sub_answer` must be lists of the same length, got 2"
    ):
        read({**UNKE, "sub_answer": ["Lund."]}, strict=True)


def query(
    prompt: str, *answers: str, subject: str = "Q5", targets: tuple[object, ...] = ("Q0",), **more: object
) -> dict:
    return {
        "prompt": prompt,
        "answers": [{"value": answer, "aliases": [f"the {answer}"] if answer else []} for answer in answers],
        "query_type": "regular",
        "subject_id": subject,
        "relation": "MOTHER",
        "target_ids": list(targets),
        "phrase": None,
        **more,
    }


def case(*queries: dict) -> dict:
    return {"test_queries": list(queries), "test_condition": "OR", "condition_queries": [query("Is she?", "Yes")]}


FACT = {"subject_id": "Q5", "relation": "COUNTRY_OF_CITIZENSHIP", "target_id": "Q9"}
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Joan of Arc is United Arab Emirates.",
        **FACT,
        "original_fact": {"prompt": "The name of the country of citizenship of Joan of Arc is United Kingdom.", **FACT},
    },
    "Relation_Specificity": [
        case(query("The name of the mother of Joan of Arc is", "Isabelle")),
        case(query("The name of the award Joan of Arc won is", "Prize")),
    ],
    "Logical_Generalization": [case(query("The name of the continent of Joan of Arc is", "Asia", ""))],
    "Subject_Aliasing": [case(query("The country of the Maid is", "United Arab Emirates", targets=("Q9",)))],
    "Compositionality_I": [
        case(
            query(
                "The capital of the country of Joan of Arc is",
                "Abu Dhabi",
                second_hop_target_ids=["Q7"],
                targets=("Q9",),
            )
        )
    ],
    "Compositionality_II": [],
    "Forgetfulness": [
        case(query("The name of the country of citizenship of Joan of Arc, which is not United Arab Emirates, is", ""))
    ],
}


def test_rippleedits(read):
    loaded = read(RIPPLE)
    (request,) = loaded.requests
    assert (loaded.format, dict(loaded.unread)) == ("rippleedits", {})
    assert request.prompt == "The name of the country of citizenship of Joan of Arc is"
    assert (request.subject, request.target_new, request.target_old) == (
        "Joan of Arc",
        "United Arab Emirates",
        "United Kingdom",
    )
    assert request.target_new_aliases == ("the United Arab Emirates",)
    assert request.relation == "COUNTRY_OF_CITIZENSHIP"
    assert sorted(request.portability) == ["Compositionality_I", "Logical_Generalization", "Subject_Aliasing"]
    assert request.portability["Compositionality_I"][0].answers == ("Abu Dhabi", "the Abu Dhabi")
    mother = Probe("The name of the mother of Joan of Arc is", ("Isabelle", "the Isabelle"))
    award = Probe("The name of the award Joan of Arc won is", ("Prize", "the Prize"))
    assert request.locality == {"Relation_Specificity": (mother, award)}
    assert dict(loaded.dropped) == {"probe without an answer": 1}


def test_recent_facts_have_no_old_one(read):
    edit = {**RIPPLE["edit"], "original_fact": None}
    (request,) = read({**RIPPLE, "example_type": "recent", "edit": edit}).requests
    assert (request.target_new, request.target_old) == ("United Arab Emirates", None)
    (request,) = read({**RIPPLE, "edit": edit, "Subject_Aliasing": []}).requests  # no test names the target
    assert (request.target_new, request.target_new_aliases) == ("United Arab Emirates", ())
    with pytest.raises(InvalidRequest, match=r"cannot be cut into a prompt and a target"):
        read({**RIPPLE, "edit": {**edit, "prompt": "Joan lives."}}, strict=True)


@pytest.mark.parametrize(
    ("sentence", "label", "old", "prompt"),
    [
        ("The author of X is This Is Us", "", None, "The author of X is"),
        ("The author of X is Who is Who", "Who is Who", None, "The author of X is"),
        ("The author of X is Who is Who", "", "The author of X is Who are They.", "The author of X is"),
        ("X follows Y", "", "X follows Z.", "X follows"),
        ("X is followed by Y", "", None, "X is followed by"),
    ],
)
def test_cut(sentence, label, old, prompt):
    assert cut(sentence, label, old) == prompt


@pytest.mark.parametrize(
    ("prompt", "peers", "subject"),
    [
        ("The name of the league which FC Åland plays in is", [], "FC Åland"),
        ("The number of children Ada has is", [], "Ada"),
        ("The name of the award Ada of Lund won is", [], "Ada of Lund"),
        ("Part One is followed by", [], "Part One"),
        ("The name of the currency in Peru is", [], "Peru"),
        ("The place of birth of Joan of Arc is", [], "Arc"),  # where it ends is right: no other prompt tells more
        ("The place of birth of Joan of Arc is", ["The name of the mother of Joan of Arc is"], "Joan of Arc"),
        (
            "The place of birth of Joan of Arc is",
            ["The names of the siblings of Joan of Arc are", "Is Joan of Arc still alive?"],
            "Joan of Arc",
        ),
        ("The place of birth of Ada Berg is", ["The mother of Eva Berg is"], "Ada Berg"),
        ("It is", [], None),
    ],
)
def test_subject_of(prompt, peers, subject):
    assert subject_of(prompt, peers) == subject


def test_zsre_whose_new_answer_is_the_true_one(read):
    """`alt` replaces `pred`; where it is the truth, the truth cannot be the old answer."""
    (request,) = read({**ZSRE, "alt": "soccer"}, strict=True).requests
    assert (request.target_new, request.target_old, request.target_old_aliases) == ("soccer", "tennis", ())
    assert request.target_new_aliases == ("football",)
    (request,) = read({**ZSRE, "alt": "football", "pred": "football "}, strict=True).requests
    assert (request.target_new, request.target_old) == ("football", None)  # the model's own will serve
    (request,) = read({**ZSRE, "alt": "soccer"}, strict=True, zsre_target="answers[0]").requests
    assert (request.target_new, request.target_old, request.target_new_aliases) == ("football", None, ("soccer",))


def test_fields_that_are_not_read_are_named_once(read, caplog):
    loaded = read({**KNOWEDIT_ZSRE, "hint": "x", "empty": ""}, {**KNOWEDIT_ZSRE, "hint": "y", "more": [1]})
    assert dict(loaded.unread) == {"hint": 2, "more": 1}
    probes = {"Reasoning": [{"prompt": "Is she?", "ground_truth": "no", "level": 3}]}
    assert dict(read({**KNOWEDIT_ZSRE, "portability": probes}).unread) == {"portability.Reasoning.level": 1}


FORMATS = {
    "wikibigedit-dev.json": ("wikibigedit", 1500, 1500),
    "mquake-cf-dev.json": ("mquake", 177, 216),
    "unke-dev.json": ("unke", 500, 500),
    "zsre-dev.json": ("zsre_mend_eval", 1500, 1500),
    "qaedit-dev.json": ("qaedit", 600, 600),
    "counterfact-edit-dev.json": ("counterfact-edit", 5000, 5000),
}


@pytest.mark.parametrize("name", FORMATS)
def test_real_rows(name):
    """Every row is read, whole, and every field is either read or known to hold nothing for us."""
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not there")
    format, rows, requests = FORMATS[name]
    dropped = {"rephrase without a question": 10} if format == "wikibigedit" else {}
    loaded = load_requests(REAL / name, strict=not dropped)
    assert (dict(loaded.dropped), loaded.skipped) == (dropped, {})
    assert len(json.loads((REAL / name).read_text("utf-8"))) == rows
    assert (loaded.format, len(loaded.requests)) == (format, requests)
    assert all(field.startswith("requested_rewrite.") for field in loaded.unread)  # AKEW's paragraphs
    kinds = {kind for request in loaded.requests for kind in (*request.locality, *request.portability)}
    expected = {
        "wikibigedit": {"other_subject"},
        "mquake": {"kept_hop", "2_hops", "3_hops"},
        "unke": {"sub_question"},
        "counterfact-edit": {"neighborhood"},
    }
    assert kinds == expected.get(format, {"unrelated"})


def test_real_paragraphs():
    path = REAL / "mquake-cf-dev.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    loaded = load_requests(path, "akew", strict=True)
    assert len(loaded.requests) == 216
    assert not loaded.unread
    assert all(len(request.target_new.split()) > 20 for request in loaded.requests)
    facts = load_requests(path, "mquake").requests
    assert [request.locality for request in loaded.requests] == [request.locality for request in facts]
