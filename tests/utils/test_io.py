"""Files appear whole or not at all."""

from __future__ import annotations

import json

import pytest

from lga_lightning.utils.io import write_json, write_whole


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder" / "result.json"
    write_json(path, {"a": 1})

    def full_disk(scratch):
        scratch.write_text("half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, full_disk)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_numbers_that_json_does_not_have(tmp_path):
    write_json(tmp_path / "a.json", {"x": [float("nan"), 1.5], "y": (float("inf"), "é")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": [None, 1.5], "y": [None, "é"]}
