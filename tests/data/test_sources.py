"""Where records come from: files of every kind, the Hub; in constant memory, and with what each error says."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lga_lightning.data import load_requests, to_record
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.data.sources import json_text, read_records, source_name, tables
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.tables import as_csv, as_parquet

FULL = EditRequest(
    "The “city” of Malmö, [x] {y},\nis in",
    "Malmö",
    'the "North", at {} last',
    "Sweden",
    rephrases=("One finds Malmö in", "[Malmö]"),
    locality={"near": (Probe("Lund is in", ("Sweden", "Sverige")),), "far": (Probe("[Oslo", ("Norway",)),)},
    portability={"reasoning": (Probe("In Malmö, one pays in", ("kronor",)),)},
    target_old_aliases=("Sverige",),
    relation="P17",
)
PLAIN = EditRequest("[Rome] is in", "Rome", "France", split="test")
ROWS = [to_record(FULL), to_record(PLAIN)]


WRITTEN = {
    "facts.json": json.dumps(ROWS),
    "facts.jsonl": "\n".join(map(json.dumps, ROWS)),
    "facts.csv": as_csv(ROWS),
    "facts.CSV": "\ufeff" + as_csv(ROWS),
    "facts.tsv": as_csv(ROWS, "\t"),
    "facts.parquet": as_parquet(ROWS),
    "no-suffix": as_parquet(ROWS),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_every_kind_of_file(tmp_path, name, zipped):
    content = WRITTEN[name] if isinstance(WRITTEN[name], bytes) else WRITTEN[name].encode()
    if zipped and not name.endswith(("parquet", "suffix")):
        name, content = f"{name}.gz", gzip.compress(content)
    (tmp_path / name).write_bytes(content)
    # a table has every column in every row: the first record has fields of ours only
    loaded = load_requests(tmp_path / name)
    assert [to_record(request) for request in loaded.requests] == ROWS
    assert loaded.format == "jsonl"
    assert loaded.requests[0].id.startswith(f"{name}, ")


def test_places_in_a_table_are_lines_of_the_file(tmp_path):
    (tmp_path / "facts.csv").write_text('prompt,subject,target_new\n"a\nRome",Rome,x\n\nOslo is,Oslo,y\n')
    assert [request.id for request in load_requests(tmp_path / "facts.csv").requests] == [
        "facts.csv, line 2",
        "facts.csv, line 5",
    ]


def test_parquet_rows_are_counted_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 2)
    table = pa.Table.from_pylist([{"prompt": f"Rome {i}", "subject": "Rome", "target_new": "x"} for i in range(7)])
    parquet.write_table(table, tmp_path / "facts.parquet", row_group_size=3)
    requests = load_requests(tmp_path / "facts.parquet").requests
    assert [(request.prompt, request.id) for request in requests] == [
        (f"Rome {i}", f"facts.parquet, row {i + 1}") for i in range(7)
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_a_list_is_the_same_in_pieces_of_any_size(monkeypatch, chunk):
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    values = [
        {"a": '\\"[{,}]\u2028🇫🇷'},
        [],
        12345,
        -1.5e-7,
        True,
        None,
        "x" * 200,
        {"b": [[{}]]},
        float("inf"),
        "😀",
    ]
    for options in ({}, {"indent": 3}, {"ensure_ascii": False, "separators": (",", ":")}):
        text = json.dumps(values, **options)
        assert [value for _, value in json_text.json_list(io.StringIO(text), "f")] == values
    assert list(json_text.json_list(io.StringIO(" [\n] \n"), "f")) == []


@pytest.mark.parametrize("chunk", [1, 5, 1 << 16])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1},\n {"a": tru}]', "line 2, row 2: Expecting value"),
        ('[{"a": 1}\n {"a": 2}]', "line 2, found '{' where ']' should be"),
        ('[\n{"a": 1},\n]', "line 3, row 2: Expecting value"),
        ('[{"a": 1}', "line 1, the file ends where ']' should be"),
        ('[{"a": "1', "line 1, row 1: Unterminated string"),
        ("[", "line 1, row 1: Expecting value"),
        ('[{"a": 1}]\n\n[]', "line 3, found '[' behind the list"),
        ('[{"a": "\x01"}]', "line 1, row 1: Invalid control character"),
        ('[{"a": "\\u12"}]', "line 1, row 1: Invalid"),
        ("[{'a': 1}]", "line 1, row 1: Expecting property name"),
    ],
)
def test_what_is_wrong_with_a_list_and_where(monkeypatch, chunk, text, said):
    monkeypatch.setattr(json_text, "CHUNK", chunk)
    with pytest.raises(DataError) as caught:
        list(json_text.json_list(io.StringIO(text), "facts.json"))
    assert str(caught.value).startswith(f"facts.json is not valid JSON: {said}")


def test_an_error_early_in_a_list_is_found_without_reading_the_rest():
    file = io.StringIO('[{"a": 1}, {"a" 2}, ' + '{"a": 3}, ' * 200_000)
    with pytest.raises(DataError, match="row 2: Expecting ':'"):
        list(json_text.json_list(file, "f"))
    assert file.tell() == json_text.CHUNK


BAD = {
    "short.csv": ("prompt,subject,target_new\nRome is,Rome\n", "short.csv, line 2: the row has 2 cells, the header 3"),
    "open.csv": ('prompt,subject,target_new\n"Rome is,Rome,x\n', "open.csv, line 2 is not valid CSV"),
    "quote.csv": ('prompt,subject,target_new\n"Ro"me is,Rome,x\n', "quote.csv, line 2 is not valid CSV"),
    "twice.csv": ("prompt,prompt\na,b\n", "twice.csv, line 1: every column needs a name of its own"),
    "unnamed.tsv": ("prompt\t\na\tb\n", "unnamed.tsv, line 1: every column needs a name of its own"),
    "missing.csv": ("prompt,subject\nRome is,Rome\n", "missing.csv, line 2: the format is not recognised"),
    "header.csv": ("prompt,subject,target_new\n", "header.csv holds no usable request: it has no records"),
    "empty.csv": ("", "empty.csv holds no usable request: it has no records"),
    "json.csv": (json.dumps(ROWS[1]) + "\n" + json.dumps(ROWS[1]), "json.csv, line 2: the format is not recognised"),
    "probes.csv": (
        "prompt,subject,target_new,locality\nRome is,Rome,x,near\n",
        "probes.csv, line 2: the field 'locality' must be an object of lists, got \"near\"",
    ),
    "half.json.gz": (gzip.compress(json.dumps(ROWS * 99).encode())[:-40], "half.json.gz is not a whole gzip file"),
    "noise.json.gz": (gzip.compress(b"[]")[:10] + b"\xff" * 9, "noise.json.gz is not a whole gzip file"),
    "plain.json.gz": (json.dumps(ROWS), "plain.json.gz is not a whole gzip file"),
    "half.parquet": (WRITTEN["facts.parquet"][:-20], "half.parquet is not a whole Parquet file"),
    "text.parquet": ("prompt", "text.parquet is not a whole Parquet file"),
    "number.parquet": (
        as_parquet([{"prompt": "Rome is", "subject": "Rome", "target_new": 3}]),
        "number.parquet, row 1: the field 'target_new' must be a string, got 3",
    ),
    "bytes.parquet": (
        as_parquet([{"prompt": b"Rome is", "subject": "Rome", "target_new": "x"}]),
        "bytes.parquet, row 1: the field 'prompt' must be a string, got \"b'Rome is'\"",
    ),
    "facts.json.gz": (gzip.compress("Zoë".encode("latin-1")), "facts.json.gz is not a text file in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        load_requests(tmp_path / name)
    assert str(caught.value).startswith(said)


def test_long_cells_and_the_limit_of_others(tmp_path):
    limit = csv.field_size_limit()
    (tmp_path / "facts.csv").write_text(as_csv([{"prompt": "Rome is", "subject": "Rome", "target_new": "x" * 300_000}]))
    assert len(load_requests(tmp_path / "facts.csv").requests[0].target_new) == 300_000
    assert csv.field_size_limit() == limit


@pytest.fixture
def hub(serve):
    """The Hub with one data set, o/facts; returns the calls of the loader."""
    return serve(ROWS)


def test_a_data_set_of_the_hub(hub):
    loaded = load_requests("hub:o/facts")
    assert [to_record(request) for request in loaded.requests] == ROWS
    assert loaded.requests[1].id == "o/facts (train), row 2"
    assert hub == [("o/facts", None, {"data_files": None, "split": "train", "revision": None, "streaming": True})]


def test_what_of_the_hub_is_loaded(hub):
    address = "hub:o/facts@v1.2?config=small%20ones&split=train&file=a/b.json"
    load_requests(address)
    assert hub == [
        ("o/facts", "small ones", {"data_files": "a/b.json", "split": "train", "revision": "v1.2", "streaming": True})
    ]
    assert source_name(address) == "o/facts@v1.2 (small ones, a/b.json, train)"
    assert EditDataModule(address).name == source_name(address)


@pytest.mark.parametrize("address", ["hub:", "hub:?split=test", "hub:o/n?part=test", "hub:o/n?split=", "hub:o/n?split"])
def test_addresses_that_are_none(address):
    with pytest.raises(DataError, match=r"is no address of a data set on the Hub\. It must be hub:owner/name"):
        read_records(address)


@pytest.mark.parametrize(
    ("address", "said"),
    [("hub:o/none", "Dataset 'o/none' doesn't exist"), ("hub:o/facts?split=test", "Bad split: test. Available splits")],
)
@pytest.mark.usefixtures("hub")
def test_what_the_loader_says(address, said):
    with pytest.raises(DataError, match="Could not read the data set o/") as caught:
        load_requests(address)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def stream(path: Path, count: int) -> Path:
    """A file with many requests, in 13 relations; a kilobyte each."""

    def row(i: int) -> dict:
        prompt = f"The town of number {i} is in " + "x" * 900
        return {"prompt": prompt, "subject": f"number {i}", "target_new": "x", "relation": f"P{i % 13}"}

    if path.suffix == ".parquet":
        with parquet.ParquetWriter(path, pa.Table.from_pylist([row(0)]).schema, compression="none") as writer:
            for start in range(0, count, 500):
                writer.write_table(pa.Table.from_pylist([row(start + i) for i in range(500)]))
    elif path.suffix == ".csv":
        path.write_text(as_csv([row(i) for i in range(count)]))
    else:
        parts = (json.dumps(row(i)) for i in range(count))
        path.write_text("[" + ",".join(parts) + "]" if path.suffix == ".json" else "\n".join(parts))
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_what_is_not_kept_is_not_held(tmp_path, suffix):
    path = stream(tmp_path / f"facts.{suffix}", 8_000)
    assert path.stat().st_size > 7_500_000
    load_requests(path, limit=1)  # what is imported and cached on first use
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    loaded = load_requests(path, limit=50, relations=["P3"], seed=1, proxy_share=0.5, split="test")
    peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow
    tracemalloc.stop()
    assert len(loaded.requests) == 50
    assert loaded.filtered["of another relation"] > 7_000
    assert peak < 2_000_000  # bytes


class Pieces(io.TextIOBase):
    """A text that is made as it is read."""

    def __init__(self, pieces) -> None:
        self.pieces = iter(pieces)

    def read(self, size: int) -> str:
        return next(self.pieces, "")


def test_a_long_list_without_a_line_break():
    rows = f'{{"prompt": "{"x" * 980}"}} ,' * 50
    tracemalloc.start()
    count = sum(1 for _ in json_text.json_list(Pieces(["[", *[rows] * 600, "1]"]), "f"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_001  # rows, of a kilobyte each
    assert peak < 1_000_000  # bytes


def test_columns_of_one_name_are_refused(tmp_path):
    columns = [pa.array(["Rome is in"]), pa.array(["Rome"]), pa.array(["France"])]
    parquet.write_table(pa.table(columns, ["prompt", "subject", "subject"]), tmp_path / "two.parquet")
    with pytest.raises(DataError, match=r"two\.parquet: every column needs a name of its own, got"):
        load_requests(tmp_path / "two.parquet")


@pytest.mark.parametrize("depth", [500, 980, 5000])
def test_a_cell_of_any_depth_is_read_or_refused(depth, tmp_path):
    """JSON is decoded to a depth at which readers can no longer follow it."""
    answers = "[" * depth + '"x"' + "]" * depth
    row = {
        "prompt": "Rome is in",
        "subject": "Rome",
        "target_new": "France",
        "locality": f'{{"a": [{{"prompt": "b", "answers": {answers}}}]}}',
    }
    (tmp_path / "deep.csv").write_text(as_csv([row]))
    readable = depth == 500
    with nullcontext() if readable else pytest.raises(DataError, match=r"deep\.csv, line 2"):
        assert load_requests(tmp_path / "deep.csv").requests[0].locality["a"][0].answers == ("x",)


def test_a_home_that_is_not_there():
    with pytest.raises(SettingError, match=r"There is no home folder for the path '~nobodyhere/facts\.json'"):
        load_requests("~nobodyhere/facts.json")
