"""The words of a command line, before the parser reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice


def in_order(words: Sequence[str]) -> list[str]:
    """The words with configuration files first, so that options win over files wherever they stand.

    ``--fact`` becomes what the parser knows it by.

    Args:
        words: Options of a verb.

    Example:
        >>> in_order(["--data.limit", "8", "--config", "a.yaml", "--fact", "Rome is in|Rome|France"])
        ['--config', 'a.yaml', '--data.limit', '8', '--data.facts+=Rome is in|Rome|France']
    """
    files, others = [], []
    rest = iter(words)
    for word in rest:
        name, sign, value = word.partition("=")
        if name in ("-c", "--config"):
            files += [word] if sign else [word, *islice(rest, 1)]
        elif name == "--fact":
            others += [f"--data.facts+={fact}" for fact in ([value] if sign else islice(rest, 1))]
        else:
            others.append(word)
    return [*files, *others]
