"""Two hundred files, each broken in a way of its own: one clear paragraph each, and never a traceback."""

from __future__ import annotations

import copy
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lga_lightning import __main__ as entry
from lga_lightning.data import load_requests
from lga_lightning.exceptions import LGAError
from tests.helpers.records import (
    COUNTERFACT,
    COUNTERFACT_EDIT,
    JSONL,
    KNOWEDIT_ZSRE,
    KNOWN,
    QAEDIT,
    WIKIBIO,
    ZSRE,
)
from tests.helpers.tables import as_csv, as_parquet

SOUND = {
    "jsonl": [{**JSONL, "target_old": "Italy", "rephrases": ["Rome lies in"], "relation": "P17"}],
    "counterfact": [COUNTERFACT],
    "counterfact-edit": [COUNTERFACT_EDIT],
    "zsre_mend_eval": [ZSRE],
    "knowedit": [KNOWEDIT_ZSRE],
    "wikibio": [WIKIBIO],
    "qaedit": [QAEDIT],
    "known_1000": [KNOWN[0], KNOWN[3]],
}
# fields that no reader looks at, or that may be anything but a wrong type
UNREAD = {
    "case_id",
    "pararel_idx",
    "attribute_prompts",
    "cond",
    "pred",
    "id",
    "source",
    "known_id",
    "template",
    "prediction",
}
OPTIONAL = {
    "target_old", "rephrases", "relation", "locality", "portability", "paraphrase_prompts", "neighborhood_prompts",
    "generation_prompts", "ground_truth", "rephrase_prompt", "rephrase", "loc", "loc_ans", "locality_prompt", "relation_id",
}  # fmt: skip
FORMAT_OF = {"wikibio": "knowedit"}


def broken_fields() -> Iterator[tuple[str, str, bytes]]:
    """Sound records with one field gone, or of a type that it must not have: format, name of the file, content."""
    for format, records in SOUND.items():
        for path in fields(records[-1]):
            for what, value in {"gone": None, "number": 1945, "nested": {"x": [["y", 2]]}, "half": "\ud800 x"}.items():
                bad = copy.deepcopy(records)
                place = bad[-1]
                for step in path[:-1]:
                    place = place[step]
                if what == "gone":
                    if path[-1] in OPTIONAL or (format, path[-1]) == ("jsonl", "subject"):
                        continue
                    del place[path[-1]]
                else:
                    place[path[-1]] = value
                yield FORMAT_OF.get(format, format), f"{format}-{'.'.join(path)}-{what}.json", json.dumps(bad).encode()


def fields(record: dict) -> Iterator[tuple[str, ...]]:
    """Paths of the fields that a reader looks at."""
    for name, value in record.items():
        if name not in UNREAD:
            yield (name,)
            if name in ("requested_rewrite", "target_new", "target_true") and isinstance(value, dict):
                yield from ((name, *rest) for rest in fields(value))


def broken_files() -> Iterator[tuple[str, str, bytes]]:
    """Files that are cut off, of another kind than they say, or empty."""
    text = json.dumps([{**JSONL, "prompt": f"Rome is in {i}"} for i in range(30)])
    lines = "".join(json.dumps({**JSONL, "prompt": f"Rome is in {i}"}) + "\n" for i in range(30))
    table = as_csv([{"prompt": f"Rome is in {i}", "subject": "Rome", "target_new": "x"} for i in range(30)])
    arrow = as_parquet([{"prompt": f"Rome is in {i}", "subject": "Rome", "target_new": "x"} for i in range(30)])
    for share in (1, 3, 5, 7, 9):
        yield "auto", f"cut{share}.json", text[: len(text) * share // 10].encode()
        yield "auto", f"cut{share}.jsonl", lines[: len(lines) * share // 10 + share].encode()
        yield "auto", f"cut{share}.parquet", arrow[: len(arrow) * share // 10]
        yield "auto", f"cut{share}.json.gz", gzip.compress(text.encode())[: 15 * share]
        yield "auto", f"open{share}.csv", (table[: len(table) * share // 10] + '\n"Rome').encode()
        at = len(table) * share // 10
        yield "auto", f"columns{share}.csv", (table[:at] + "\na,b\n" + table[at:]).encode()
        at = len(text) * share // 10
        yield "auto", f"noise{share}.json", text[:at].encode() + b"\xff\xfe" + text[at:].encode()
        yield "auto", f"noise{share}.jsonl", lines[:at].encode() + b"\x00" + lines[at:].encode()
    for name in ("json", "jsonl", "csv", "tsv", "parquet", "json.gz"):
        for what, content in {"empty": b"", "blank": b" \n\n ", "number": b"17", "text": b"Rome is in Italy\n"}.items():
            zipped = gzip.compress(content) if name.endswith("gz") else content
            yield "auto", f"{what}.{name}", zipped
    for what, content in {
        "object": json.dumps({"data": [JSONL]}, indent=1),
        "dictionary": json.dumps({"1": JSONL, "2": 3}),
        "rows": "[1, 2]",
        "lists": "[[]]",
        "null": "[null]",
        "unclosed": "[" + json.dumps(JSONL) + ",",
        "comma": "[" + json.dumps(JSONL) + ",]",
        "colon": json.dumps(JSONL).replace(":", "=", 1),
        "single": str([JSONL]),
        "deep": "[" * 50_000,
        "other": json.dumps([{"instruction": "Say", "output": "x"}]),
        "reasons": json.dumps([{**JSONL, "subject": "Oslo"}, {**JSONL, "target_new": ""}, {**JSONL, "split": "train"}]),
    }.items():
        yield "auto", f"{what}.json", content.encode()


FILES = [*broken_fields(), *broken_files()]


def test_there_are_two_hundred_and_no_two_are_the_same():
    assert len(FILES) >= 200
    assert len({name for _, name, _ in FILES}) == len(FILES)
    named = {content for _, _, content in FILES}
    assert len(named) >= 200
    assert {format for format, _, _ in FILES} >= {"auto", "jsonl", "counterfact", "knowedit", "qaedit", "known_1000"}


@pytest.mark.parametrize("records", SOUND.values(), ids=SOUND)
def test_unbroken_they_are_read(tmp_path, records):
    (tmp_path / "facts.json").write_text(json.dumps(records))
    assert load_requests(tmp_path / "facts.json", strict=True).requests


@pytest.mark.parametrize(("format", "name", "content"), FILES, ids=[name for _, name, _ in FILES])
def test_each_is_refused_in_one_paragraph(tmp_path, format, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LGAError) as caught:
        load_requests(tmp_path / name, format, strict=True)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert 40 < len(message) < 1_500
    assert message.isprintable()
    assert message.endswith((".", "]", ")", '"', "'")), message


@pytest.mark.parametrize(("format", "name", "content"), FILES[::25], ids=[name for _, name, _ in FILES[::25]])
def test_the_command_line_says_the_same(tmp_path, capsys, monkeypatch, format, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LGAError) as caught:
        load_requests(tmp_path / name, format, strict=True, split="proxy")
    arguments = [f"--data.requests={tmp_path / name}", f"--data.format={format}", "--data.strict=true"]
    monkeypatch.setattr(sys, "argv", ["lga", "fit", *arguments, "--trainer.accelerator=cpu"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 2
    assert f"\nlga: {caught.value}\n" in capsys.readouterr().err


def test_the_command_of_the_shell_says_the_same(tmp_path):
    _, name, content = FILES[3]
    (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-m", "lga_lightning", "fit", f"--data.requests={tmp_path / name}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(entry.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"lga: {name}, row 1: ")
    assert done.stderr.count("lga: ") == 1
