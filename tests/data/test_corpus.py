"""Texts, from the same sources as requests."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from lga_lightning.data.corpus import read_passages, read_texts
from lga_lightning.data.sources import source_fingerprint
from lga_lightning.exceptions import DataError


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "One."}\n"Two."\n'),
        ("a.json", '[{"text": "One."}, "Two."]'),
        ("a.json", '"One."\n\n{"text": "Two.", "title": "2"}'),
        ("a.txt", "One.\n\n\nTwo."),
        ("a.txt", "\ufeffOne.\r\n \r\nTwo.\r\n"),
        ("a", "One.\n\nTwo."),
        ("a.csv", 'title,text\n1,One.\n2,"Two."\n'),
        ("a.tsv", "text\ttitle\nOne.\t1\nTwo.\t2\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_kinds_of_files(name, content, packed, tmp_path):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert [text.strip() for text in read_texts(str(path))] == ["One.", "Two."]


def test_plain_text_that_looks_like_json(tmp_path):
    (tmp_path / "a.txt").write_text('[1] One,\n{"text": 2}\n\n"Two."\n')
    assert list(read_texts(tmp_path / "a.txt")) == ['[1] One,\n{"text": 2}\n', '"Two."\n']


def test_a_column_of_parquet(tmp_path):
    parquet.write_table(pa.table({"title": [1, 2], "text": ["One.", "Two."]}), tmp_path / "a.parquet")
    assert list(read_texts(tmp_path / "a.parquet")) == ["One.", "Two."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"txt": "One."}',
            r"a.jsonl, line 1: expected a string.*the field 'text', got the fields \['txt'\]",
        ),
        ("a.csv", b"txt\nOne.", r"a.csv, line 2: expected a string.*'text', got the fields \['txt'\]"),
        ("a.jsonl", b'{"text": 1}', "a.jsonl, line 1: the field 'text' must be a string, got 1"),
        ("a.json", b'["One.", 5]', "a.json, row 2: expected a string, or an object with the field 'text', got 5"),
        ("a.json", b'{"a": 1', "a.json, line 1 is not valid JSON"),
        ("a.json", b"5", "a.json, line 1: expected a string, or an object with the field 'text', got 5"),
        ("a.txt", b"\xff\xfe\xfa", "a.txt is not a text file in UTF-8"),
        ("a.txt.gz", b"not packed", "a.txt.gz is not a whole gzip file"),
    ],
)
def test_bad_texts(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_texts(str(tmp_path / name)))


@pytest.mark.parametrize("source", ["nowhere.txt", "owner/name", "owner/name:config"])
@pytest.mark.parametrize("use", [read_passages, source_fingerprint])
def test_a_name_that_is_no_file_is_told_how_to_address_the_hub(source, use):
    with pytest.raises(DataError, match=rf"The file '{source}' does not exist.*hub:owner/name, with \?config=\.\.\."):
        use(source)


def test_a_data_set_of_the_hub(serve):
    calls = serve([{"text": "One."}, {"text": "Two."}])
    assert list(read_texts("hub:o/facts@v1?config=en")) == ["One.", "Two."]
    assert calls == [
        ("o/facts", "en", {"data_files": None, "split": "train", "revision": "v1", "streaming": True}),
    ]
    serve([{"body": "One."}])
    with pytest.raises(
        DataError, match=r"o/facts \(train\), row 1: expected a string.*'text', got the fields \['body'\]"
    ):
        list(read_texts("hub:o/facts"))
    with pytest.raises(
        DataError, match=r"Could not read the data set o/none \(train\) from the Hub\. Check its spelling"
    ):
        list(read_texts("hub:o/none"))


def test_fingerprints(monkeypatch, tmp_path):
    def dataset_info(api: object, repository: str, revision: str | None = None) -> SimpleNamespace:
        if repository != "o/facts":
            raise OSError("no such\nrepository")
        return SimpleNamespace(sha=f"commit of {revision}")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    assert source_fingerprint("hub:o/facts?config=en") == "commit of None"
    assert source_fingerprint("hub:o/facts@v1") == "commit of v1"
    with pytest.raises(DataError, match=r"Could not read the data set o/none \(train\).*no such repository"):
        source_fingerprint("hub:o/none")
    (tmp_path / "a.txt").write_bytes(b"One." * 1_000_000)
    assert source_fingerprint(str(tmp_path / "a.txt")) == hashlib.sha256(b"One." * 1_000_000).hexdigest()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
def test_texts_are_not_held(tmp_path, name):
    texts = (f"{number} " + "x" * 999 for number in range(8_000))
    separators = {"a.json": ",", "a.jsonl": "\n", "a.txt": "\n\n"}
    whole = separators[name].join(text if name == "a.txt" else json.dumps(text) for text in texts)
    (tmp_path / name).write_text(f"[{whole}]" if name == "a.json" else whole)
    tracemalloc.start()
    count = sum(1 for _ in read_texts(tmp_path / name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8_000  # texts, of a kilobyte each
    assert peak < 1_000_000  # bytes
