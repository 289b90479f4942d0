"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lga_lightning.exceptions import SettingError, WriteError
from lga_lightning.utils.scratch import scratch_beside


def user_path(path: str | Path) -> Path:
    """A path that a user wrote, with ``~`` for the home folder.

    Raises:
        SettingError: If there is no home of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SettingError(f"There is no home folder for the path {str(path)!r}. Write it out, from / on.") from error


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a scratch file beside ``path``, then rename it to ``path``.

    Args:
        path: Where the file is to appear; its folder is made.
        write: Gets the scratch file's path, which has the suffix of ``path``.

    Raises:
        WriteError: If the disk is full, say; what was there before is as it was.
    """
    with disk_errors(path), scratch_beside(path) as scratch:
        write(scratch)
        _sync(scratch)
        scratch.chmod(0o666 & ~_umask())
        scratch.replace(path)


def write_folder(path: Path, write: Callable[[Path], None], overwrite: bool = False) -> None:
    """Let ``write`` fill a scratch folder beside ``path``, then rename it to ``path``.

    Args:
        path: Where the folder is to appear.
        write: Gets the scratch folder's path.
        overwrite: Replace a folder that is there; of a link, the one that it leads to.

    Raises:
        SettingError: If something is there and ``overwrite`` is False, or it is not a folder, or the current folder is in it.
        WriteError: If the disk is full, say; a folder that was there before is as it was.
    """
    put_back(path)
    if stays(path, overwrite):
        raise already_there(path)
    with disk_errors(path), scratch_beside(path.resolve(), folder=True) as scratch:
        write(scratch)
        put_in_place(scratch, path)


def put_in_place(scratch: Path, path: Path) -> None:
    """Rename a scratch folder to ``path``, instead of a folder that is there.

    Args:
        scratch: The folder, in the same place as ``path``, or as the folder that this leads to as a link.
        path: The name that it gets.
    """
    path = path.resolve()
    for file in scratch.rglob("*"):
        if file.is_file():
            _sync(file)
            file.chmod(0o666 & ~_umask())  # safetensors writes for the user alone, and others may have to serve it
    scratch.chmod(0o777 & ~_umask())
    if not path.exists():
        scratch.rename(path)
        return
    before = _before(path)
    path.rename(before)
    try:
        scratch.rename(path)
    except OSError:
        before.rename(path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def put_back(path: Path) -> None:
    """Give a folder its name back that a killed run was about to replace.

    Args:
        path: The name.
    """
    path = path.resolve()
    before = _before(path)
    if path.exists():
        shutil.rmtree(before, ignore_errors=True)
    elif before.exists():
        before.rename(path)


def may_give_way(path: Path) -> bool:
    """Whether something that is there may be replaced at all: a folder, and not the current one or one around it.

    Args:
        path: Where it is.
    """
    return path.is_dir() and not Path.cwd().is_relative_to(path.resolve())


def check_place(path: Path) -> None:
    """Refuse a place where nothing can be written, before the work of which it is to hold the result.

    Args:
        path: What is to appear there.

    Raises:
        SettingError: If the nearest thing around it that is there is no folder, or one that may not be written to.
    """
    around = next(place for place in path.resolve().parents if place.exists())
    if not (around.is_dir() and os.access(around, os.W_OK | os.X_OK)):
        raise SettingError(
            f"{str(path)!r} cannot be written: {str(around)!r} is no folder, or none that you may write to. Give another place."
        )


def stays(path: Path, overwrite: bool) -> bool:
    """Whether something is there that must not be replaced.

    Args:
        path: Where it would be.
        overwrite: Whether a folder may be replaced.
    """
    return path.exists() and not (overwrite and may_give_way(path))


def already_there(path: Path, allow: str = "Give another one, or allow it with `overwrite=True`.") -> SettingError:
    """The error for a folder that must not be overwritten.

    Args:
        path: The folder.
        allow: What to do about it.
    """
    way_out = allow if may_give_way(path) else "It is not a folder, or the current folder is in it: give another one."
    return SettingError(f"{str(path)!r} is there already and is not overwritten. {way_out}")


def _before(path: Path) -> Path:
    """What a folder is called while another one takes its place."""
    return path.with_name(f".{path.name}.before")


def _sync(path: Path) -> None:
    """See to it that a file is on the disk before it gets its name, whatever happens to the machine."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Within the block, an error of the disk says what could not be written; safetensors' own kind of error is one.

    Args:
        path: What is written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.__cause__ if isinstance(error, WriteError) else error  # of a file in a folder
        raise WriteError(
            f"Could not write {str(path)!r}: {reason}. What was there before is as it was. See whether the disk is full and whether "
            "you may write there, or give another place."
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""

    def write(scratch: Path) -> None:
        scratch.write_text(text, encoding="utf-8")

    write_whole(path, write)


def finite(content: Any) -> Any:
    """What JSON can say of some content: null for numbers that are not finite, lists for tuples.

    Args:
        content: Numbers, texts, lists and dicts.
    """
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
