"""Reading request files, every way in which one can be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lga_lightning.data import load_requests
from lga_lightning.data.loading import LoadedRequests, as_requests
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import DataError, InvalidRequest
from lga_lightning.modules.datamodule import EditDataModule

COUNTERFACT = Path(__file__).parents[3] / "shared" / "data" / "counterfact-edit-dev.json"

ROME = {"prompt": "Rome is in", "subject": "Rome", "target_new": "France"}
OSLO = {"prompt": "The city of Oslo is in", "subject": "Oslo", "target_new": "Japan", "target_old": "Norway"}
FULL = {
    **OSLO,
    "rephrases": ["Oslo lies in", "One finds Oslo in"],
    "locality": {"neighborhood": [{"prompt": "Bergen is in", "answers": ["Norway", "Norge"]}], "far": []},
    "portability": {"reasoning": [{"prompt": "In Oslo, one pays in", "answers": "yen"}]},
    "relation": "country",
    "split": "test",
    "a field of another tool": 3,
}
COUNTERFACT_ROW = {
    **ROME,
    "case_id": 0,
    "ground_truth": "Italy",
    "rephrase_prompt": "Rome lies in",
    "locality_prompt": "Milan is in",
    "locality_ground_truth": "Italy",
}


GROUPED = [
    {"prompt": f"City {number} is in", "subject": f"City {number}", "target_new": "France", "group": group}
    for number, group in enumerate("aabbccddeeffgghh")
]


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def save(tmp_path):
    def write(content: str | bytes, name: str = "facts.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_jsonl(save):
    first, second = load_requests(save(lines(ROME, FULL))).requests
    assert first == EditRequest("Rome is in", "Rome", "France", id="facts.jsonl, line 1")
    assert second == EditRequest(
        prompt="The city of Oslo is in",
        subject="Oslo",
        target_new="Japan",
        target_old="Norway",
        rephrases=("Oslo lies in", "One finds Oslo in"),
        locality={"neighborhood": (Probe("Bergen is in", ("Norway", "Norge")),), "far": ()},
        portability={"reasoning": (Probe("In Oslo, one pays in", ("yen",)),)},
        relation="country",
        split="test",
        id="facts.jsonl, line 2",
    )


def test_counterfact_edit(save):
    path = save(json.dumps([COUNTERFACT_ROW, ROME]), "cf.json")
    first, second = load_requests(path, "counterfact-edit").requests
    assert first == EditRequest(
        prompt="Rome is in",
        subject="Rome",
        target_new="France",
        target_old="Italy",
        rephrases=("Rome lies in",),
        locality={"neighborhood": (Probe("Milan is in", ("Italy",)),)},
        id="cf.json, row 1",
    )
    assert second == EditRequest("Rome is in", "Rome", "France", id="cf.json, row 2")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Norge", ("Norge",)),
        (["Norway", "Norge"], ("Norway", "Norge")),
        ([["Norway", "Norge"], ["Noreg"]], ("Norway", "Norge", "Noreg")),
    ],
)
def test_aliases_in_every_shape(save, given, kept):
    row = {**ROME, "locality": {"kind": [{"prompt": "Bergen is in", "answers": given}]}}
    (request,) = load_requests(save(lines(row))).requests
    assert request.locality["kind"][0].answers == kept
    row = {**COUNTERFACT_ROW, "locality_ground_truth": given}
    (request,) = load_requests(save(lines(row)), "counterfact-edit").requests
    assert request.locality["neighborhood"][0].answers == kept


@pytest.mark.parametrize("missing", [{}, {"rephrases": None, "locality": None, "portability": None, "split": None}])
def test_fields_that_may_be_missing_or_null(save, missing):
    (request,) = load_requests(save(lines({**ROME, **missing}))).requests
    assert (request.rephrases, request.locality, request.portability, request.split) == ((), {}, {}, None)


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(
    "content",
    [
        lines(ROME, OSLO),
        "\n \n" + lines(ROME) + "\n\n" + lines(OSLO) + "\n",
        lines(ROME, OSLO).replace("\n", "\r\n"),
        lines(ROME, OSLO).rstrip(),
        json.dumps([ROME, OSLO]),
        "\n\n  " + json.dumps([ROME, OSLO], indent=2) + "\n",
    ],
    ids=["lines", "blank lines", "CRLF", "no last newline", "list", "indented list"],
)
def test_containers(save, content, bom):
    # the name says nothing: the content decides
    loaded = load_requests(save(bom + content, "facts.txt"))
    assert [request.subject for request in loaded.requests] == ["Rome", "Oslo"]
    assert not loaded.skipped


def test_places_count_the_files_own_lines(save):
    loaded = load_requests(save("\n" + lines(ROME) + "\n" + lines(OSLO)))
    assert [request.id for request in loaded.requests] == ["facts.jsonl, line 2", "facts.jsonl, line 4"]


def test_letters_of_all_kinds(save):
    row = {"prompt": "Zoë\u2028of 東京 🇫🇷 is", "subject": "東京 🇫🇷", "target_new": "Åse"}
    for ascii_only in (False, True):
        (request,) = load_requests(save(json.dumps(row, ensure_ascii=ascii_only))).requests
        assert (request.prompt, request.subject, request.target_new) == tuple(row.values())


BAD = {
    "not JSON": ("Rome is in France\n", ["facts.jsonl, line 1 is not valid JSON", "one object a line"]),
    "not JSON in line 3": (lines(ROME, OSLO) + '{"prompt": \n', ["facts.jsonl, line 3 is not valid JSON"]),
    "a JSON list cut off": (json.dumps([ROME, OSLO])[:-4], ["facts.jsonl is not valid JSON", "a list of objects"]),
    "an object over several lines": (json.dumps(ROME, indent=2), ["facts.jsonl, line 1", "JSON list of objects"]),
    "a row that is no object": (lines(ROME, ["x"], OSLO), ["facts.jsonl, line 2", "a JSON object", "['x']"]),
    "a row of a list that is no object": (json.dumps([ROME, 7]), ["facts.jsonl, row 2", "a JSON object", "got 7"]),
    "a field is missing": (
        lines(ROME, {"prompt": "Rome is in", "subject": "Rome"}),
        ["facts.jsonl, line 2", "'target_new' is missing", "['prompt', 'subject']", "--data.format"],
    ),
    "a field of a list is missing": (json.dumps([OSLO, {}]), ["facts.jsonl, row 2", "'prompt' is missing"]),
    "a number for a string": (
        lines({**ROME, "target_new": 1945}),
        ["facts.jsonl, line 1", "'target_new' must be a string", "got 1945"],
    ),
    "null for a string": (lines({**ROME, "target_new": None}), ["line 1", "'target_new' must be a string", "got null"]),
    "a number in a list": (lines({**ROME, "rephrases": ["x", 3]}), ["'rephrases' must be a string", "got 3"]),
    "a long value": (lines({**ROME, "target_old": ["long"] * 99}), ["'target_old' must be a string", "..."]),
    "a list for kinds": (lines({**ROME, "locality": ["x"]}), ["line 1", "'locality' must be an object", '["x"]']),
    "a string for probes": (lines({**ROME, "portability": {"kind": "x"}}), ["'portability.kind' must be a list"]),
    "a probe without answers": (
        lines({**ROME, "locality": {"near": [{"prompt": "a", "answers": ["b"]}, {"prompt": "c"}]}}),
        ["facts.jsonl, line 1, locality.near[1]", "'answers' is missing", "['prompt']"],
    ),
    "a probe with a number": (
        lines({**ROME, "locality": {"near": [{"prompt": "a", "answers": [["b", 3]]}]}}),
        ["facts.jsonl, line 1, locality.near[0]", "'answers' must be a string", "got 3"],
    ),
    "an empty list": ("[]", ["facts.jsonl holds no usable request", "no records"]),
    "an empty file": ("", ["facts.jsonl holds no usable request", "no records"]),
    "blank lines alone": ("\n \n", ["facts.jsonl holds no usable request", "no records"]),
    "every row left out": (
        lines({**ROME, "subject": "Oslo"}, {**ROME, "target_new": ""}),
        ["facts.jsonl holds no usable request", "line 1", "'Oslo' does not occur", "line 2", "`target_new`"],
    ),
    "not UTF-8": ("Zoë is in".encode("latin-1"), ["facts.jsonl is not a text file in UTF-8", "Save it as UTF-8"]),
    "a binary file": (b"\x89PNG\r\n\x1a\n\x00\xff", ["facts.jsonl is not a text file in UTF-8"]),
    "nested too deep": ("[" * 100_000, ["facts.jsonl is not valid JSON"]),
    "a line nested too deep": ('{"a":' * 100_000, ["facts.jsonl, line 1 is not valid JSON"]),
    "a number too long": (lines(ROME) + '{"a": ' + "1" * 5000 + "}", ["facts.jsonl, line 2 is not valid JSON"]),
    "a list with a number too long": ("[" + "1" * 5000 + "]", ["facts.jsonl is not valid JSON"]),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_bad_files(save, content, said):
    with pytest.raises(DataError) as caught:
        load_requests(save(content))
    for text in said:
        assert text in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    for path, what in [(tmp_path / "none.jsonl", "does not exist"), (tmp_path, "is a folder, not a file")]:
        with pytest.raises(DataError, match=what) as caught:
            load_requests(path)
        assert repr(str(path)) in str(caught.value)
        assert "hub:owner/name" in str(caught.value)


def test_a_file_of_another_format(save):
    path = save(lines({"question": "Where is Rome?"}))
    with pytest.raises(DataError, match=r"line 1: the field 'prompt' is missing.*\['question'\]"):
        load_requests(path, "counterfact-edit")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_bad_limit(limit):
    with pytest.raises(DataError, match=f"`limit` must be at least 1, got {limit}"):
        load_requests(limit=limit)


def test_a_bad_format():
    with pytest.raises(
        DataError,
        match=r"`format` must be 'auto', one of \['mquake', .*'jsonl'\], or a Format of your own, got 'csv'",
    ):
        load_requests(format="csv")


def test_a_bad_batch_size():
    with pytest.raises(DataError, match="`batch_size` must be at least 1, got 0"):
        EditDataModule(batch_size=0)


UNUSABLE = [
    {**ROME, "subject": "Oslo"},
    {**ROME, "target_old": "France"},
    {**OSLO, "subject": "Bergen"},
    {**ROME, "locality": {"near": [{"prompt": "Oslo is in", "answers": []}]}},
]


def test_skipped_requests_are_counted_by_reason(save):
    loaded = load_requests(save(lines(UNUSABLE[0], ROME, *UNUSABLE[1:], OSLO)))
    assert [request.subject for request in loaded.requests] == ["Rome", "Oslo"]
    assert loaded.skipped == {
        "subject not in the prompt": 2,
        "old and new target are equal": 1,
        "probe without an answer": 1,
    }
    assert loaded.first_skipped.keys() == loaded.skipped.keys()
    first = loaded.first_skipped["subject not in the prompt"]
    assert first.startswith("facts.jsonl, line 1: ")
    assert "'Oslo'" in first


@pytest.mark.parametrize("row", UNUSABLE)
def test_strict_fails_at_the_first_unusable_request(save, row):
    path = save(json.dumps([ROME, row, OSLO]))
    reason = next(iter(load_requests(path).skipped))
    with pytest.raises(InvalidRequest, match=r"^facts.jsonl, row 2: ") as caught:
        load_requests(path, strict=True)
    assert caught.value.reason == reason


def test_split_and_limit(save):
    splits = ["proxy", "test", None, "test", "proxy", None]
    path = save(lines(*({**ROME, "target_new": str(i), "split": split} for i, split in enumerate(splits))))

    def kept(**options: object) -> str:
        return "".join(request.target_new for request in load_requests(path, **options).requests)

    assert kept() == "012345"
    assert kept(split="proxy") == "0245"
    assert kept(split="test") == "1235"
    assert kept(limit=2) == "01"
    assert kept(limit=2, split="test") == "12"
    assert kept(limit=99) == "012345"


def test_an_empty_split(save):
    path = save(lines({**ROME, "split": "proxy"}))
    with pytest.raises(DataError, match="no usable request for the split 'test'"):
        load_requests(path, split="test")


def test_rows_after_the_limit_are_not_looked_at(save):
    assert len(load_requests(save(lines(ROME) + "not JSON\n"), limit=1).requests) == 1


def test_the_bundled_facts():
    loaded = load_requests(strict=True)
    assert len(loaded.requests) >= 150
    assert len({request.relation for request in loaded.requests}) >= 8
    proxies = {r.subject for r in load_requests(split="proxy").requests}
    tests = {r.subject for r in load_requests(split="test").requests}
    assert not proxies & tests
    assert len(proxies) + len(tests) == len({r.subject for r in loaded.requests})
    for request in loaded.requests:
        assert request.target_old
        assert request.rephrases
        assert request.locality


@pytest.mark.skipif(not COUNTERFACT.exists(), reason=f"{COUNTERFACT} is not there")
def test_counterfact():
    loaded = load_requests(COUNTERFACT)
    assert loaded.format == "counterfact-edit"
    assert (
        len(loaded.requests) + sum(loaded.skipped.values()) == len(json.loads(COUNTERFACT.read_text("utf-8"))) == 5000
    )
    assert len(loaded.requests) == 5000
    assert all(r.target_old and r.rephrases and r.locality["neighborhood"] for r in loaded.requests)


def test_the_data_module(save):
    path = save(
        lines(*({**ROME, "target_new": str(i), "split": split} for i, split in enumerate(["proxy", "test", None])))
    )
    data = EditDataModule(str(path), batch_size=2)
    fingerprints = set()
    for stage, kept, batches in [("fit", "02", data.train_dataloader), ("validate", "12", data.val_dataloader)]:
        data.setup(stage)
        assert sorted(r.target_new for batch in batches() for r in batch.requests) == list(kept)
        fingerprints.add(data.run_data().fingerprint)
    assert len(fingerprints) == 2
    assert data.name == "facts.jsonl"
    assert EditDataModule().name == "bundled facts"


@pytest.mark.parametrize(
    ("limit", "stage", "said"), [(1, "predict", True), (1, "validate", False), (3, "predict", False)]
)
def test_the_data_module_says_that_a_limit_leaves_facts_unedited(limit, stage, said, save, caplog):
    data = EditDataModule(str(save(lines(ROME, OSLO))), limit=limit)
    data.setup(stage)
    assert ("facts beyond it" in caplog.text) is said


def test_the_data_module_says_what_it_left_out(save, caplog):
    data = EditDataModule(str(save(lines(ROME, *UNUSABLE))))
    data.setup("fit")
    assert (
        "Left out 2 of the records of facts.jsonl: subject not in the prompt. The first: facts.jsonl, line 2"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("rephrase", "rephrases"),
        ("target_olds", "target_old"),
        ("Subject", "subject"),
        ("portablity", "portability"),
        ("spilt", "split"),
        ("gruop", "group"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_misspelt_field_of_our_own_format(wrong, meant, strict, tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(lines(OSLO, {"prompt": "Rome is in", "target_new": "France", wrong: "x"}))
    with pytest.raises(
        DataError, match=f"facts.jsonl, line 2: unknown field '{wrong}'; did you mean '{meant}'"
    ) as caught:
        load_requests(path, strict=strict)
    assert not isinstance(caught.value, InvalidRequest)


def test_other_fields_of_our_own_format_are_named(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(
        lines({**ROME, "comment": "x", "subject_id": "Q1", "id": 3}, {**OSLO, "comment": "y", "note": None})
    )
    loaded = load_requests(path, strict=True)
    assert dict(loaded.unread) == {"comment": 2, "subject_id": 1}  # the subject is there: no misspelling of it
    others = dict.fromkeys(
        ("question", "quality", "location", "relation_id", "group_id", "explanation", "rationale"), "x"
    )
    assert load_requests([{**ROME, **others}]).unread.keys() == others.keys()


@pytest.mark.parametrize("given", ["facts.jsonl", Path("facts.jsonl"), ROME, LoadedRequests([])])
def test_what_is_no_list_of_facts(given):
    with pytest.raises(DataError, match=rf"Facts are a list.*a {type(given).__name__}\."):
        as_requests(given)
    with pytest.raises(DataError, match="Fact 2 of a list is 'Rome', a str"):
        as_requests([EditRequest("Rome is in", "Rome", "France"), "Rome"])


@pytest.mark.parametrize("indent", [None, 2])
def test_objects_by_number_are_rows(indent, tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({"0": ROME, "7": OSLO, "12": {**ROME, "subject": "Oslo"}}, indent=indent))
    loaded = load_requests(path)
    assert [request.id for request in loaded.requests] == ["facts.json, row 1", "facts.json, row 2"]
    assert [request.prompt for request in loaded.requests] == [ROME["prompt"], OSLO["prompt"]]
    assert "facts.json, row 3" in loaded.first_skipped["subject not in the prompt"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"0": {"prompt": "Rome", "target_new": "x"}', "the file ends where '}' should be"),
        ('{"0": {"prompt": "Rome", "target_new": "x"}, "1"}', "where ':' should be"),
        ('{"0": {"prompt": "Rome", "target_new": "x"}, "1": 3}', "row 2: expected a JSON object"),
        ('{"0": {"prompt": "Rome", "target_new": "x"}} x', "behind the list"),
    ],
)
def test_objects_by_number_that_are_broken(text, said, tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(said)):
        load_requests(path)


@pytest.mark.parametrize("kind", ["facts.jsonl", "facts.csv", "dicts", "requests"])
def test_a_group_is_one_wherever_it_comes_from(kind, tmp_path):
    source = GROUPED if kind == "dicts" else load_requests(GROUPED).requests
    if kind.startswith("facts"):
        source = tmp_path / kind
        table = "prompt,subject,target_new,group\n" + "".join(",".join(row.values()) + "\n" for row in GROUPED)
        source.write_text(table if kind.endswith("csv") else lines(*GROUPED))
    assert [request.group for request in load_requests(source, limit=1).requests] == ["a", "a"]
    drawn = [request.group for request in load_requests(source, limit=3, seed=0).requests]
    assert drawn[::2] == drawn[1::2]
    assert len(set(drawn)) == 3
    whole = load_requests(source, proxy_share=0.5).requests
    assert [request.split for request in whole[::2]] == [request.split for request in whole[1::2]]
    assert {request.split for request in whole} == {"proxy", "test"}


def test_no_record_is_read_behind_the_last_that_is_kept(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(lines(ROME, OSLO) + "no JSON\n")
    assert len(load_requests(path, limit=2).requests) == 2
    with pytest.raises(DataError, match="line 3"):
        load_requests(path, limit=3)


def test_a_group_with_rows_of_both_splits_gives_each_its_own():
    mixed = [{**row, "split": split} for row, split in zip(GROUPED[:4], ("proxy", "test", "test", "test"), strict=True)]
    assert [request.subject for request in load_requests(mixed, split="proxy").requests] == ["City 0"]
    found = load_requests(mixed, split="test")
    assert [request.subject for request in found.requests] == ["City 1", "City 2", "City 3"]
    assert found.filtered == {"of the other split": 1}
