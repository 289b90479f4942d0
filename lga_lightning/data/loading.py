"""Edit requests from a file or a Hub data set: read, checked, filtered, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from lga_lightning.data.formats import Format, ZsreTarget, find_format, recognise
from lga_lightning.data.records import Record
from lga_lightning.data.requests import EditRequest, units_of
from lga_lightning.data.selection import split_of, take
from lga_lightning.data.sources import read_records, source_name
from lga_lightning.exceptions import DataError, InvalidRequest

FACTS, AT_HAND = "bundled facts", "a list of requests"
BUNDLED = Path(str(files("lga_lightning") / "data" / "facts.jsonl"))


@dataclass
class LoadedRequests:
    """What came out of a file or a Hub data set.

    Attributes:
        requests: The valid requests that were asked for, in the file's order (or that of the seed).
        skipped: How many records were left out because they cannot be used, by reason.
        first_skipped: For each reason, what the first of them had.
        filtered: How many sound records were left out because something else was asked for, or because no request can be made
            of them, by reason.
        dropped: How many probes were left out of requests that were kept, by reason.
        unread: How many records hold something in a field that was not read, by field.
        format: Name of the format that was read.
        note: Choice of its reader without which numbers cannot be compared; "" where there is none.
        name: What the source is called in results.
    """

    requests: list[EditRequest]
    skipped: Counter[str] = field(default_factory=Counter)
    first_skipped: dict[str, str] = field(default_factory=dict)
    filtered: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    format: str = ""
    note: str = ""
    name: str = ""

    def skip(self, error: InvalidRequest, message: str) -> None:
        """Count a record that cannot be used."""
        self.skipped[error.reason] += 1
        self.first_skipped.setdefault(error.reason, message)


def name_of_requests(source: str | Path | Sequence[EditRequest | Mapping[str, Any]] | None) -> str:
    """What results call a source of requests."""
    if source is None:
        return FACTS
    return source_name(source) if isinstance(source, str | Path) else AT_HAND


def load_requests(
    source: str | Path | Sequence[EditRequest | Mapping[str, Any]] | None = None,
    format: str | Format = "auto",
    limit: int | None = None,
    strict: bool = False,
    split: str | None = None,
    relations: Collection[str] | None = None,
    seed: int | None = None,
    proxy_share: float | None = None,
    zsre_target: ZsreTarget = "alt",
) -> LoadedRequests:
    """Read edit requests from a file or a Hub data set, one record at a time: what is not kept is not held.

    Args:
        source: A JSON, JSON Lines, CSV or Parquet file, ``hub:owner/name`` (see ``docs/data.md``), requests or dicts that are at
            hand (all of one kind), or None for the bundled facts.
        format: Its format: the name of one of ``FORMATS``, or a :class:`~lga_lightning.data.Format` of your own; ``"auto"``
            recognises it by the first record.
        limit: Keep the first so many valid requests; those of a group count as one.
        strict: Fail at the first record that cannot be used instead of leaving it out.
        split: ``"proxy"`` or ``"test"``: leave out the requests that are kept for the other; those without a split stay.
        relations: Keep requests of these relations alone.
        seed: Keep a random sample instead of the first so many, and in random order. None keeps the order.
        proxy_share: Give requests without a split one by their subject: this share of all subjects is for ``"proxy"``, the
            others for ``"test"``. None leaves them without.
        zsre_target: For the format ``zsre_mend_eval``: the answer to edit in, ``"alt"`` or ``"answers[0]"``.

    Raises:
        DataError: If an argument is out of its range, the source is missing or malformed, a field is missing, or no request
            is left.
        InvalidRequest: If ``strict`` and a request cannot be used (subject not in the prompt, empty target, ...).
    """
    if limit is not None and limit < 1:
        raise DataError(f"`limit` must be at least 1, got {limit}. Leave it out for all requests.")
    if proxy_share is not None and not 0 < proxy_share < 1:
        raise DataError(
            f"`proxy_share` must be between 0 and 1, got {proxy_share}. Leave it out to use all requests for everything."
        )
    if zsre_target not in get_args(ZsreTarget):
        raise DataError(f"`zsre_target` must be 'alt' or 'answers[0]', got {zsre_target!r}.")
    if format != "auto" and not isinstance(format, Format):
        format = find_format(format)  # a name that is wrong fails before the file is read
    loaded = LoadedRequests([], name=name_of_requests(source))
    if source is None or isinstance(source, str | Path):
        records = read_records(BUNDLED if source is None else source)
        found = _valid(records, format, {"zsre_target": zsre_target}, strict, loaded)
    elif any(isinstance(fact, Mapping) for fact in source):
        found = _valid(_at_hand(source), format, {"zsre_target": zsre_target}, strict, loaded)
    else:
        found = _requests(source)
    valid = units_of(found)
    split_up = (unit if proxy_share is None else _with_split(unit, proxy_share) for unit in valid)
    seen: dict[str, None] = {}
    kept = (part for unit in split_up if (part := _wanted(unit, split, relations, loaded.filtered, seen)))
    loaded.requests = take(kept, limit, seed)
    if not loaded.requests:
        raise DataError(f"{loaded.name} holds no usable request{_why(loaded, split, relations, seen)}.")
    return loaded


def as_requests(facts: Sequence[EditRequest | Mapping[str, Any]]) -> list[EditRequest]:
    """Facts at hand as requests: those that are requests as they are, dicts as records of a format told by the first.

    Args:
        facts: Requests, or dicts; all of one kind.

    Raises:
        DataError: If they are no list of facts, a dict cannot be read, or the kinds are mixed.

    Example:
        >>> as_requests([{"prompt": "Rome is in", "subject": "Rome", "target_new": "France"}])[0].target_new
        'France'
    """
    if isinstance(facts, LoadedRequests | str | Path | Mapping):
        raise DataError(
            f"Facts are a list, of EditRequests or of dicts with their fields, and this is a {type(facts).__name__}. Put a single fact in a "
            "list; of a file or data set take `load_requests(source).requests`."
        )
    if any(isinstance(fact, Mapping) for fact in facts):
        return load_requests(facts, strict=True).requests
    return list(_requests(facts))


def _at_hand(facts: Sequence[EditRequest | Mapping[str, Any]]) -> Iterator[Record]:
    for number, fact in enumerate(facts, start=1):
        if not isinstance(fact, Mapping):
            raise DataError(
                f"Fact {number} of a list is {fact!r:.80}, and others are dicts. Give dicts alone, or EditRequests alone."
            )
        yield Record(dict(fact), f"fact {number}")


def _requests(facts: Iterable[object]) -> Iterator[EditRequest]:
    for number, fact in enumerate(facts, start=1):
        if not isinstance(fact, EditRequest):
            raise DataError(
                f"Fact {number} of a list is {fact!r:.80}, a {type(fact).__name__}. Give EditRequests, or dicts with their fields."
            )
        yield fact


def _valid(
    records: Iterable[Record], format: str | Format, options: dict[str, str], strict: bool, loaded: LoadedRequests
) -> Iterator[EditRequest]:
    """The requests of one record after the other; what cannot be used is counted in ``loaded``."""
    read = None
    for record in records:
        if read is None:  # the first record
            chosen = format if isinstance(format, Format) else recognise(record)
            loaded.format, loaded.note = chosen.name, chosen.note.format(**options)
            read = chosen.reader(**{name: options[name] for name in chosen.options})
        try:
            found, unread = read(record), set(record.unread())
        except RecursionError as error:
            raise DataError(f"{record.place}: lists or objects are nested too deeply to be read.") from error
        except InvalidRequest as error:
            message = f"{record.place}: {error}"
            if strict:
                raise InvalidRequest(error.reason, message) from error
            loaded.skip(error, message)
            continue
        if strict and record.dropped:
            raise record.dropped[0]
        loaded.dropped.update(error.reason for error in record.dropped)
        if found is None:
            loaded.filtered[chosen.no_request] += 1
        else:
            loaded.unread.update(unread - set(chosen.unused))
            yield from [found] if isinstance(found, EditRequest) else found


def _with_split(unit: list[EditRequest], proxy_share: float) -> list[EditRequest]:
    """A group goes where its first subject goes."""
    split = split_of(unit[0].about, proxy_share)
    return [request if request.split else replace(request, split=split) for request in unit]


def _wanted(
    unit: list[EditRequest],
    split: str | None,
    relations: Collection[str] | None,
    filtered: Counter[str],
    seen: dict[str, None],
) -> list[EditRequest]:
    """What is wanted of requests that belong together: those of the split, if one is of a relation that is asked for."""
    found = {request.relation for request in unit}
    of_split = [request for request in unit if split is None or request.split in (None, split)]
    if relations is not None and found.isdisjoint(relations):
        filtered["of another relation"] += 1
        if len(seen) < 20:
            seen.update(dict.fromkeys(relation for relation in found if relation is not None))
        return []
    if len(of_split) < len(unit):
        filtered["of the other split"] += len(unit) - len(of_split)
    return of_split


def _why(loaded: LoadedRequests, split: str | None, relations: Collection[str] | None, seen: dict[str, None]) -> str:
    if loaded.skipped:
        return ": " + " ".join(f"{count} left out ({loaded.first_skipped[r]})" for r, count in loaded.skipped.items())
    if relations is not None and loaded.filtered["of another relation"]:
        has = f"it has {', '.join(map(repr, seen))}" if seen else "its records name none"
        return f" of the relations {list(relations)}: {has}"
    if split:
        return f" for the split {split!r}"
    return f": left out were {dict(loaded.filtered)}" if loaded.filtered else ": it has no records"
