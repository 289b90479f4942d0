"""How result files are read: JSON of a known schema, with all the fields that are wanted and no other."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lga_lightning.exceptions import LGAError
from lga_lightning.utils.checksums import CHECKSUM, was_changed, with_checksum
from lga_lightning.utils.io import write_json

SCHEMA = 1


@dataclass(frozen=True)
class ResultFile:
    """A kind of result file, for the messages about it.

    Attributes:
        what: What it is, as in ``"an attribution"``.
        verb: The command that writes it, as in ``"lga fit"``.
        error: What is raised about one that cannot be read.
        missing: What is said where there is none, with ``{path}`` for where it was looked for.
    """

    what: str
    verb: str
    error: type[LGAError]
    missing: str

    @contextmanager
    def reading(self, path: Path) -> Iterator[dict[str, Any]]:
        """The content of a file, without schema and checksum; whatever is wrong with a field in the block becomes one clear error.

        Args:
            path: The file.

        Raises:
            LGAError: The kind's own, if there is no such file, it is not JSON of the schema, a field is not as it should be,
                or the content is another than the one that was written.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise self.error(self.missing.format(path=repr(str(path)))) from error
        except (ValueError, RecursionError) as error:
            raise self.error(f"{str(path)!r} is not valid JSON: {error}. {self._again}") from error
        changed = isinstance(content, dict) and was_changed(content)
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise self.error(f"{str(path)!r} is not {self.what} of schema {SCHEMA}. {self._again}")
        content.pop(CHECKSUM, None)
        try:
            yield content
            if changed:
                raise FieldError(
                    f"was changed after it was written: its checksum is another. Where that is meant, leave out the line {CHECKSUM!r}"
                )
        except FieldError as error:
            raise self.error(f"{str(path)!r} {error}. {self._again}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise self.error(
                f"{str(path)!r} is not {self.what}: a field holds what it should not ({type(error).__name__}: {error}). "
                f"{self._again}"
            ) from error

    @property
    def _again(self) -> str:
        return f"Run `{self.verb}` again."


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result file whole, with its schema and a checksum.

    Args:
        path: Where the file is to appear.
        content: Its fields.
    """
    write_json(path, with_checksum({"schema": SCHEMA, **content}))


class FieldError(ValueError):
    """A field that is missing, or that nobody knows."""


def take_fields(
    cls: type[Any], content: Any, optional: Collection[str] = (), known: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of a dataclass, taken out of a JSON object that has all of them and no other.

    Args:
        cls: The dataclass.
        content: The object.
        optional: Names of fields that may be missing.
        known: More names that the object may have; they are left out.

    Raises:
        FieldError: If it is no object, or lacks a field, or has one that is unknown.

    Example:
        >>> take_fields(ResultFile, {"what": "a file", "verb": "lga"}, optional=("error", "missing"))
        {'what': 'a file', 'verb': 'lga'}
    """
    if not isinstance(content, Mapping):
        raise FieldError(f"has {content!r} where an object with the fields of {cls.__name__} should be")
    names = [f.name for f in fields(cls)]
    for name in content:
        if name not in names and name not in known:
            raise FieldError(f"has the unknown field {name!r}")
    return {name: take(content, name) for name in names if name in content or name not in optional}


def take(content: Mapping[str, Any], name: str) -> Any:
    """A field of a JSON object.

    Raises:
        FieldError: If it is not there.
    """
    if name not in content:
        raise FieldError(f"lacks the field {name!r}")
    return content[name]
