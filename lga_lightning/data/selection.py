"""Which requests of a data set are kept: by relation, by split, and how many."""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from itertools import chain, islice

from lga_lightning.data.requests import EditRequest


def split_of(subject: str, proxy_share: float) -> str:
    """``"proxy"`` or ``"test"``, by the subject alone: on every machine, in every order of the file.

    Args:
        subject: A subject, or the prompt of a request without one; case, spacing and Unicode's several ways to write a letter make no difference.
        proxy_share: Which share of all subjects is to serve as proxies, between 0 and 1.

    Example:
        >>> split_of("Rome", 0.5) == split_of(" ROME ", 0.5)
        True
    """
    normal = " ".join(unicodedata.normalize("NFKC", subject).casefold().split())
    return "proxy" if _fraction(normal) < proxy_share else "test"


def take(units: Iterable[list[EditRequest]], limit: int | None = None, seed: int | None = None) -> list[EditRequest]:
    """The first so many requests, or a random sample; no more than that many are held.

    Args:
        units: A stream of requests, each alone or with those of its group; a group is taken or left as one.
        limit: How many to take; None for all.
        seed: None takes them in their order. A number takes them in a random order that depends on the number and on the
            requests alone, not on the order of the stream, so that a smaller sample is the beginning of a larger one.
    """
    if seed is None:
        return list(chain.from_iterable(islice(units, limit)))
    keyed = (
        (_fraction(f"{seed}\0{unit[0].prompt}\0{unit[0].target_new}"), number, unit)
        for number, unit in enumerate(units)
    )
    chosen = sorted(keyed) if limit is None else heapq.nsmallest(limit, keyed)
    return list(chain.from_iterable(unit for _, _, unit in chosen))


def _fraction(text: str) -> float:
    """A text's hash, between 0 and 1."""
    return int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56
