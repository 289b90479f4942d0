"""The words of a command line, before the parser reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from lga_lightning.data.short_facts import SPELLING
from lga_lightning.exceptions import SettingError


def in_order(words: Sequence[str]) -> list[str]:
    """The words with configuration files first, so that options win over files wherever they stand.

    ``--fact`` becomes what the parser knows it by.

    Args:
        words: Options of a verb.

    Raises:
        SettingError: If a ``--fact`` has nothing behind it.

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
            given = value if sign else next(rest, "")
            if not given:
                raise SettingError(f"--fact has no fact behind it. Write one in a line, as in --fact {SPELLING}.")
            others.append(f"--data.facts+={given}")
        else:
            others.append(word)
    return [*files, *others]
