"""``facts.json``, beside an adapter: its facts, with ids, and what in its factors is whose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lga_lightning.data.formats.jsonl import read_jsonl, to_record
from lga_lightning.data.records import Record
from lga_lightning.editing.facts import NO_FACTS, Columns, FactGroup, Facts
from lga_lightning.exceptions import DataError
from lga_lightning.utils.io import user_path

FACTS = "facts.json"
VERSION = 1


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """Facts as a JSON object.

    ``facts`` lists them with ``id``, ``columns`` (by module, the first and the one after the last; null where they cannot be told from
    others), ``own_columns`` (whether they are this fact's alone) and ``exact`` (whether this fact alone can be taken out exactly), beside
    the fields of a request. ``groups`` says of the facts that were edited at once how, with which of ``methods``, and on top of
    which groups: from ``first`` up to their own.

    Args:
        facts: The facts.
    """
    methods: list[Any] = []
    for group in facts.groups:
        if group.method not in methods:
            methods.append(group.method)
    groups = [
        {
            "method": methods.index(group.method),
            "layers": list(group.layers),
            "in_chat": group.in_chat,
            "solved": "in turn" if group.in_turn else "together",
            "first": group.first,
            "columns": {name: span and list(span) for name, span in group.columns.items()},
        }
        for group in facts.groups
    ]
    entries = []
    for (name, number, row), exact in zip(facts, facts.exact(), strict=True):
        group = facts.groups[number]
        request = group.requests[row]
        entry = {"id": name, "group": number, "own_columns": group.each, "exact": exact}
        columns = {module: span and list(span) for module, span in group.columns_of(row).items()}
        entries.append({**entry, "columns": columns, "source": request.id, "request": to_record(request)})
    return {"version": VERSION, "facts": entries, "groups": groups, "methods": methods}


def facts_from_json(content: dict[str, Any]) -> Facts:
    """The way back.

    Args:
        content: What :func:`facts_to_json` gave.

    Raises:
        ValueError: If it is of another version, or contradicts itself.
        KeyError, TypeError, AttributeError: If it is something else.
        InvalidRequest: If a request is none.
    """
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']!r}, where {VERSION} is known")
    members: list[list[dict[str, Any]]] = [[] for _ in content["groups"]]
    for entry in content["facts"]:
        members[entry["group"]].append(entry)
    groups = []
    for number, (group, entries) in enumerate(zip(content["groups"], members, strict=True)):
        requests = tuple(read_jsonl(Record(entry["request"], entry["source"])) for entry in entries)
        columns = {name: _span(span) for name, span in group["columns"].items()}
        if not requests or not 0 <= group["first"] <= number:
            raise ValueError(f"group {number} has no facts, or stands on groups that come later")
        each = all(entry["own_columns"] for entry in entries)
        in_turn = group["solved"] == "in turn"
        how = content["methods"][group["method"]], group.get("in_chat")
        groups.append(FactGroup(requests, columns, each, in_turn, group["first"], tuple(group["layers"]), *how))
    return Facts(tuple(groups))


def load_facts(folder: Path) -> Facts:
    """The facts of an edit on disk; none, if it was written before there was a ``facts.json``.

    Args:
        folder: The folder.

    Raises:
        DataError: If the file is broken.
    """
    path = user_path(folder) / FACTS
    if not path.is_file():
        return NO_FACTS
    try:
        return facts_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} is not a record of facts, or it is broken ({type(error).__name__}: {error}). Write the adapter anew."
        ) from error


def _span(span: list[int] | None) -> Columns | None:
    if span is None:
        return None
    start, stop = map(int, span)
    if not 0 <= start <= stop:
        raise ValueError(f"columns {span}")
    return start, stop
