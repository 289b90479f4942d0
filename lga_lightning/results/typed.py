"""Whether what a result file holds is of the types that its dataclass says."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lga_lightning.results.files import FieldError, take_fields

Result = TypeVar("Result")

LARGEST = 2**63  # no count, place or size is as large, nor a number without a point


def typed(found: Result) -> Result:
    """The same dataclass with fields of the types that it says: NaN for a number that is None, a tuple for a list, a dataclass for an object.

    Args:
        found: A dataclass, filled with what a file held.

    Raises:
        FieldError: If a field, or a part of one, is of another type, or an object lacks a field or has one that is unknown.

    Example:
        >>> from lga_lightning.results.race import RaceResult
        >>> typed(RaceResult([3], "3", 1, 1, True, "", 0, None, 0, [], [], [], {}, {}, {}))
        Traceback (most recent call last):
        ...
        lga_lightning.results.files.FieldError: has '3' as 'layer', where int should be
    """
    wanted = get_type_hints(type(found))
    changes = {f.name: _as(getattr(found, f.name), wanted[f.name], f.name) for f in fields(found)}  # type: ignore[arg-type]
    return replace(found, **changes)  # type: ignore[type-var]


def _as(value: Any, wanted: Any, name: str) -> Any:
    """A value as a type has it, or an error that names the field."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return value
    if origin in (Union, types.UnionType):
        return _as_one_of(value, parts, name)
    if origin is Literal:
        if value in parts:
            return value
    elif isinstance(wanted, type) and is_dataclass(wanted):
        return typed(value if isinstance(value, wanted) else wanted(**take_fields(wanted, value)))
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(parts):
            return tuple(_as(one, part, name) for one, part in zip(value, parts, strict=True))
    elif origin in (list, Sequence):
        if isinstance(value, list | tuple):
            return [_as(one, parts[0], name) for one in value]
    elif origin in (dict, Mapping):
        if isinstance(value, Mapping):
            return {_as(key, parts[0], name): _as(one, parts[1], name) for key, one in value.items()}
    elif wanted is float:
        if value is None:  # how NaN is written
            return math.nan
        if isinstance(value, float) or _is_count(value):
            return float(value)
    elif wanted is int:
        if _is_count(value):
            return value
    elif isinstance(value, wanted):
        return value
    raise FieldError(f"has {value!r:.60} as {name!r}, where {getattr(wanted, '__name__', wanted)} should be")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _as_one_of(value: Any, wanted: tuple[Any, ...], name: str) -> Any:
    if value is None and type(None) in wanted:
        return None
    problem = FieldError("")
    for one in wanted:
        try:
            return _as(value, one, name)
        except FieldError as error:  # noqa: PERF203 - a few types
            problem = problem if one is type(None) else error
    raise problem
