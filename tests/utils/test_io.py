"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lga_lightning.exceptions import SettingError
from lga_lightning.utils.io import write_folder, write_json, write_text, write_whole
from tests.helpers.faults import error_of


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


@pytest.mark.parametrize("write", ["file", "folder"])
def test_whichever_write_fails_there_is_the_old_or_the_new(write, tmp_path):
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
        error = error_of(nth, lambda nth=nth: put(str(nth)))
        if error is None:
            break
        assert re.match(r"Could not write '.*it': .*No space left on device", str(error))
        assert content() == {"old"}
        assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert content() == {str(nth)}
    assert 2 < nth < 19


def left_by_a_kill(code: str, folder: Path) -> set[str]:
    """What is in a folder after a process was killed in the midst of some code."""
    begin = "import os, signal\nfrom pathlib import Path\nfrom lga_lightning.utils import io\n"
    begin += "def die(*_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run([sys.executable, "-c", begin + code], cwd=folder, check=False)
    assert done.returncode == -signal.SIGKILL
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".it.json.mine").write_text("not ours")
    left = left_by_a_kill("io.write_whole(Path('it.json'), die)", tmp_path)
    left |= left_by_a_kill("io.write_folder(Path('it'), die)", tmp_path)
    assert len(left) == 3
    write_text(tmp_path / "it.json", "{}")
    write_folder(tmp_path / "it", lambda scratch: None)
    assert {path.name for path in tmp_path.iterdir()} == {"it", "it.json", ".it.json.mine"}


def test_what_another_run_is_writing_stays(tmp_path):
    def meanwhile(scratch: Path) -> None:
        write_text(tmp_path / "it.json", "1")
        assert scratch.exists()
        scratch.write_text("2")

    write_whole(tmp_path / "it.json", meanwhile)
    assert (tmp_path / "it.json").read_text() == "2"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_a_killed_run_was_replacing_is_put_back(tmp_path):
    write_folder(tmp_path / "it", lambda scratch: (scratch / "a").mkdir())
    kill = "rename = Path.rename\n"
    kill += "Path.rename = lambda path, to: die() if 'partial' in path.name else rename(path, to)\n"
    left = left_by_a_kill(kill + "io.write_folder(Path('it'), lambda scratch: None, overwrite=True)", tmp_path)
    assert "it" not in left
    with pytest.raises(SettingError, match="is there already"):
        write_folder(tmp_path / "it", lambda scratch: None)
    assert [path.name for path in (tmp_path / "it").iterdir()] == ["a"]
    write_folder(tmp_path / "it", lambda scratch: None, overwrite=True)
    assert not list((tmp_path / "it").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_link_leads_to_what_is_replaced_and_the_current_folder_stays(tmp_path, monkeypatch):
    (tmp_path / "disk" / "it").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "it")
    for name in ("a", "b"):
        write_folder(tmp_path / "link", lambda scratch, name=name: (scratch / name).touch(), overwrite=True)
        assert [file.name for file in (tmp_path / "disk" / "it").iterdir()] == [name]
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["it"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disk", "link"]
    monkeypatch.chdir(tmp_path / "link")
    for place in (".", "..", "../it"):
        with pytest.raises(
            SettingError, match=r"is there already and is not overwritten.* the current folder is in it"
        ):
            write_folder(Path(place), pytest.fail, overwrite=True)


def test_an_error_of_safetensors_is_one_of_the_disk(tmp_path):
    def full(scratch):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"Could not write '.*a.safetensors': I/O error: No space left"):
        write_whole(tmp_path / "a.safetensors", full)


def test_others_may_read_what_is_written_as_far_as_the_user_lets_them(tmp_path):
    def write(scratch: Path) -> None:
        (scratch / "inner").mkdir()
        private = scratch / "inner" / "file"
        private.write_text("content")
        private.chmod(0o600)  # as safetensors leaves its files

    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "folder", write)
        write_text(tmp_path / "file", "content")
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "folder" / "inner" / "file", tmp_path / "file")]
    assert modes == [0o640, 0o640]
