"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lga_lightning.exceptions import SettingError


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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        with _disk_errors(path):
            write(scratch)
        with scratch.open("rb") as file:  # on the disk before it gets the name, whatever happens to the machine
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        scratch.chmod(0o666 & ~umask)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], None], overwrite: bool = False) -> None:
    """Let ``write`` fill a scratch folder beside ``path``, then rename it to ``path``.

    Whatever goes wrong on the way (a full disk, say), a folder that was there is as it was.

    Args:
        path: Where the folder is to appear.
        write: Gets the scratch folder's path.
        overwrite: Replace a folder that is there.

    Raises:
        SettingError: If something is there and ``overwrite`` is False, or it is not a folder.
    """
    if path.exists() and not (overwrite and path.is_dir()):
        raise already_there(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with _disk_errors(path):
            write(scratch)
        umask = os.umask(0)
        os.umask(umask)
        scratch.chmod(0o777 & ~umask)
        if path.exists():
            old = scratch.with_name(f"{scratch.name}-old")
            path.rename(old)
            try:
                scratch.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Within the block, safetensors' own error, of a full disk say, is the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"Could not write {str(path)!r}: {error}") from error


def already_there(path: Path, allow: str = "Give another one, or allow it with `overwrite=True`.") -> SettingError:
    """The error for a folder that must not be overwritten.

    Args:
        path: The folder.
        allow: What to do about it.
    """
    way_out = allow if path.is_dir() else "It is not a folder."
    return SettingError(f"{str(path)!r} is there already and is not overwritten. {way_out}")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""

    def write(scratch: Path) -> None:
        scratch.write_text(text, encoding="utf-8")

    write_whole(path, write)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
