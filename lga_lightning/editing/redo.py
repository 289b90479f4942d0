"""Edits made again without some of their facts, where leaving out columns would not do."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lga_lightning.editing as methods
from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.facts import FactGroup, Facts
from lga_lightning.editing.updates import LowRankUpdate
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.models.chat import as_asked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HASH = "_hash"
"""Ends the name of what tells a setting's file, or data set, from any other."""
AGAIN = "Edit the facts that stay anew instead (`lga facts` lists them)."


def redo_without(
    delta: WeightDelta, ids: Collection[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> WeightDelta:
    """The edit that is made without some of its facts: what depended on them is edited again, by the same methods and settings.

    Groups of facts that were made before them, or without them in place, stay as they are.

    Args:
        delta: An edit that knows its facts.
        ids: Ids of the facts that are to go.
        model: The unedited model; it is not changed.
        tokenizer: Its fast tokenizer.

    Raises:
        DataError: If there is no such fact, or no fact would be left.
        ModelError: If a group was edited as turns of a chat, and the tokenizer has no chat template.
        SettingError: If a group cannot be made again: its method is not one of ours with settings that are all recorded, or it went by
            what it had kept of the groups before it.
    """
    delta.facts.check_ids(ids)
    editors: list[tuple[Mapping[str, Any] | None, EditMethod]] = []
    parts: list[WeightDelta] = []
    changed: set[int] = set()
    for number, (group, out) in enumerate(zip(delta.facts.groups, delta.facts.rows(ids), strict=True)):
        stay = [request for row, request in enumerate(group.requests) if row not in out]
        below = range(group.first, number)
        if out or changed.intersection(below) or None in group.columns.values():
            changed.add(number)
            part = WeightDelta({})
            if stay:
                editor = next((editor for settings, editor in editors if settings == group.method), None)
                if editor is None:
                    editor = method_of(group.method, model)
                    editors.append((group.method, editor))
                part = _again(editor, group, stay, WeightDelta.join(parts[group.first : number]), model, tokenizer)
            parts.append(part)
        else:
            parts.append(_part(delta, group))
    left = [number for number, part in enumerate(parts) if part.facts.groups]
    whole = WeightDelta.join(parts)
    firsts = [sum(kept < delta.facts.groups[number].first for kept in left) for number in left]
    groups = [replace(group, first=first) for group, first in zip(whole.facts.groups, firsts, strict=True)]
    return WeightDelta(whole.updates, Facts(tuple(groups)))


def method_of(settings: Mapping[str, Any] | None, model: PreTrainedModel) -> EditMethod:
    """The editing method that gives these settings on a model.

    Args:
        settings: Name and settings, as :meth:`EditMethod.settings` gives them and JSON keeps them.
        model: The model.

    Raises:
        SettingError: If there is none: it is no method of this package, or has guards, or its settings do not say all, or name a file
            that is not what it was.
    """
    name = settings["name"] if settings else "a method that is not recorded"
    kinds = [getattr(methods, exported) for exported in methods.__all__]
    for kind in kinds:
        if not inspect.isclass(kind) or not issubclass(kind, EditMethod) or getattr(kind, "name", "") != name:
            continue
        wanted, usual = _plain(settings), _plain(kind().settings(model))
        known = {argument for parent in kind.__mro__ for argument in inspect.signature(parent).parameters}
        given = {key: value for key, value in wanted.items() if key in known and value != usual.get(key)}
        editor: EditMethod = kind(**given)
        try:
            found = _plain(editor.settings(model))
        except DataError as error:
            raise SettingError(f"The edit was made by {name} from what is not here by now. {error} {AGAIN}") from error
        # some of them are recorded since later versions alone; but of a file without a hash there is no telling
        if {key: value for key, value in found.items() if key in wanted or key.endswith(HASH)} == wanted:
            return editor
        for key in wanted:
            if key.endswith(HASH) and key in found and found[key] != wanted[key]:
                source = key.removesuffix(HASH)
                raise SettingError(
                    f"The edit was made by {name} with `{source}` {wanted[source]!r}, and there is something else by now. Put back what was "
                    f"there, if you have it. {AGAIN}"
                )
    raise SettingError(f"The edit was made by {name}, which cannot be set up again from its recorded settings. {AGAIN}")


def _plain(settings: Mapping[str, Any] | None) -> Any:
    """Settings as JSON keeps them."""
    return json.loads(json.dumps(settings))


def _again(
    editor: EditMethod,
    group: FactGroup,
    stay: list[Any],
    below: WeightDelta,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> WeightDelta:
    """What the group's method makes of those of its facts that stay, with other edits in place."""
    if below.updates and editor.keeps_history:
        raise SettingError(
            f"Facts were edited by {editor.name} on top of others, with what it had kept of these, which an adapter does not hold. {AGAIN}"
        )
    layers = list(group.layers)
    if group.in_chat is not None:
        tokenizer = as_asked(model, tokenizer, group.in_chat)
    editor.prepare(model, tokenizer, layers)  # before anything is in place
    with below.applied(model):
        return editor.compute(model, tokenizer, stay, layers, history=editor.new_history())


def _part(delta: WeightDelta, group: FactGroup) -> WeightDelta:
    """The edit of one group alone."""
    updates = {}
    for name, span in group.columns.items():
        update = delta.updates[name]
        if span is not None and isinstance(update, LowRankUpdate):
            updates[name] = LowRankUpdate(update.b[:, slice(*span)], update.a[slice(*span)])
    columns = {name: (0, update.rank) for name, update in updates.items()}
    return WeightDelta(updates, Facts((replace(group, columns=columns, first=0),)))
