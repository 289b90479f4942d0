"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from lga_lightning.utils.io import write_folder, write_json, write_text, write_whole


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


class FailingWrites:
    """The n-th call of what writes and names files, whichever it is, finds the disk full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (Path, "write_text"), (Path, "mkdir")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left == 0:
                    raise OSError(28, "No space left on device")
            return call(*args, **kwargs)

        return counted


@pytest.mark.parametrize("write", ["file", "folder"])
def test_whichever_write_fails_there_is_the_old_or_the_new(write, tmp_path, monkeypatch):
    fails = FailingWrites(monkeypatch)

    def put(content: str) -> None:
        if write == "file":
            return write_text(tmp_path / "it", content)

        def fill(scratch: Path) -> None:
            for name in ("a", "b"):
                (scratch / name).write_text(content)

        return write_folder(tmp_path / "it", fill, overwrite=True)

    def content() -> set[str]:
        files = [tmp_path / "it"] if write == "file" else sorted((tmp_path / "it").iterdir())
        return {file.read_text() for file in files}

    put("old")
    for nth in range(1, 20):
        fails.left = nth
        try:
            put(str(nth))
        except OSError:
            fails.left = None
            assert content() == {"old"}
            assert [path.name for path in tmp_path.iterdir()] == ["it"]
        else:
            assert content() == {str(nth)}
            break
    assert 2 < nth < 19


def test_an_error_of_safetensors_is_one_of_the_disk(tmp_path):
    def full(scratch):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"Could not write '.*a.safetensors': I/O error: No space left"):
        write_whole(tmp_path / "a.safetensors", full)
