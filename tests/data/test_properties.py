"""What holds for any text whatever in a request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lga_lightning.data import load_requests, to_record
from lga_lightning.data.formats import find_format, recognise
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.exceptions import DataError, InvalidRequest
from tests.helpers.tables import as_csv, as_parquet

QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# any Unicode but halves of surrogate pairs; often with what confuses formats
TRICKY = st.sampled_from(
    ["{}", "{", "}", '"', "'", "\\", "\n", "\r\n", "\u2028", "\ufeff", "[", ",", "\t", "%s", " ", "🇫🇷", "é"]
)
TEXT = st.lists(st.text(st.characters(codec="utf-8"), max_size=6) | TRICKY, max_size=5).map("".join)
FILLED = TEXT.filter(str.strip)
ANSWERS = st.lists(FILLED, min_size=1, max_size=3).map(tuple) | FILLED.map(lambda text: (text * 3_000,))
PROBES = st.dictionaries(TEXT, st.lists(st.builds(Probe, FILLED, ANSWERS), max_size=2).map(tuple), max_size=2)


@st.composite
def edit_requests(draw: st.DrawFn) -> EditRequest:
    subject = draw(FILLED)
    pieces = [draw(TEXT), *(part for _ in range(draw(st.integers(1, 3))) for part in (subject, draw(TEXT)))]
    new = draw(FILLED)
    old = draw(st.none() | FILLED.filter(lambda text: text.strip() != new.strip()))
    texts = st.lists(FILLED, max_size=2).map(tuple)
    return EditRequest(
        prompt="".join(pieces),
        subject=draw(st.sampled_from([subject, f" {subject}", f"{subject}\n"])),
        target_new=draw(st.sampled_from([new, f" {new}", f"{new}  "])),
        target_old=old,
        rephrases=draw(texts),
        locality=draw(PROBES),
        portability=draw(PROBES),
        target_new_aliases=draw(texts),
        target_old_aliases=draw(texts),
        generation_prompts=draw(texts),
        relation=draw(st.none() | TEXT),
        split=draw(st.sampled_from([None, "proxy", "test"])),
    )


def read(values: dict, format: str, **options: str) -> EditRequest:
    request = find_format(format).reader(**options)(Record(values, ""))
    assert request is not None
    return request


@given(edit_requests())
@QUICK
def test_our_own_format_there_and_back_is_the_identity(request):
    for ascii_only in (False, True):
        line = json.dumps(to_record(request), ensure_ascii=ascii_only)
        assert "\n" not in line
        record = Record(json.loads(line), "")
        assert recognise(record).name == "jsonl"
        again = read(record.values, "jsonl")
        assert again == request
        assert json.dumps(to_record(again), ensure_ascii=ascii_only) == line


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
@given(requests=st.lists(edit_requests(), min_size=1, max_size=3))
@settings(QUICK, max_examples=20)
def test_every_kind_of_file_there_and_back(tmp_path, kind, requests):
    records = [to_record(request) for request in requests]
    for record in records:
        if kind == "csv" and record.get("relation") == "":  # an empty cell is a missing one
            del record["relation"]
        if kind == "parquet":  # kinds differ from row to row, which the types of its columns do not allow
            record.pop("locality", None)
            record.pop("portability", None)
    write(tmp_path / f"facts.{kind}", records)
    loaded = load_requests(tmp_path / f"facts.{kind}", format="jsonl", strict=True)
    assert [to_record(request) for request in loaded.requests] == records


def write(path: Path, records: list[dict]) -> None:
    if path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8", newline=""
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        path.write_text(as_csv(records), encoding="utf-8", newline="")
    else:
        path.write_bytes(as_parquet(records))


@given(edit_requests())
@QUICK
def test_formats_of_others_keep_every_letter(request):
    """Written down as in another format, a request comes back with what the format can hold."""
    first_probe = next((probe for probes in request.locality.values() for probe in probes), None)
    probe = first_probe or Probe("p", ("a",))
    old = request.target_old or "\0"
    common = {"prompt": request.prompt, "subject": request.subject, "target_new": request.target_new}
    records = {
        "counterfact-edit": {
            **common,
            "ground_truth": old,
            "rephrase_prompt": list(request.rephrases),
            "locality_prompt": probe.prompt,
            "locality_ground_truth": [list(probe.answers)],
        },
        "knowedit": {
            **common,
            "ground_truth": [old, *request.target_old_aliases],
            "rephrase_prompt": list(request.rephrases),
            "locality": {"Forgetfulness": [{"prompt": probe.prompt, "ground_truth": [[a] for a in probe.answers]}]},
        },
        "zsre_mend_eval": {
            "src": request.prompt,
            "subject": request.subject,
            "alt": request.target_new,
            "answers": [old, *request.target_old_aliases],
            "rephrase": list(request.rephrases),
            "loc": probe.prompt,
            "loc_ans": list(probe.answers),
        },
        "qaedit": {
            "prompt": request.prompt,
            "subject": request.subject,
            "target": [request.target_new, *request.target_new_aliases],
            "rephrase": list(request.rephrases),
            "locality": [{"loc": probe.prompt, "loc_ans": list(probe.answers)}],
        },
    }
    for format, record in records.items():
        assert recognise(Record(record, "")).name == format
        again = read(record, format)
        assert (again.prompt, again.subject, again.target_new) == tuple(common.values())
        assert again.rephrases == request.rephrases
        assert next(iter(again.locality.values())) == (probe,)
        if format == "qaedit":
            assert again.target_new_aliases == request.target_new_aliases
        else:
            assert again.target_old == old
        if format in ("knowedit", "zsre_mend_eval"):
            assert again.target_old_aliases == request.target_old_aliases


@given(before=TEXT.filter(lambda text: "{}" not in text), after=TEXT, subject=FILLED, new=FILLED)
@QUICK
def test_a_counterfact_template_is_filled_in_once(before, after, subject, new):
    before = before.replace("{", "(")  # so that no {} comes about at the seam
    rewrite = {
        "prompt": before + "{}" + after,
        "subject": subject,
        "target_new": {"str": new},
        "target_true": {"str": new + "!"},
    }
    request = read({"requested_rewrite": rewrite}, "counterfact")
    assert request.prompt == before + subject + after
    assert request.prompt[: request.subject_end].endswith(subject.strip())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=6,
)
FIELDS = ["prompt", "subject", "target_new", "target_old", "rephrases", "locality", "portability", "split"]


@given(value=ANYTHING, field=st.sampled_from(FIELDS))
@settings(QUICK, max_examples=100)
def test_any_value_in_any_field_is_read_or_refused_in_words(value, field):
    values = {"prompt": "Rome is in", "subject": "Rome", "target_new": "France", field: value}
    try:
        request = read(values, "jsonl")
    except InvalidRequest as error:
        assert error.reason  # noqa: PT017 - most values are read
    except DataError as error:
        assert field in str(error)  # noqa: PT017
    else:
        assert read(to_record(request), "jsonl") == request
