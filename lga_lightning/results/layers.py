"""Which layers a user's word means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lga_lightning.exceptions import LayerError
from lga_lightning.locators.selection import Choice
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult


def find_layers(layer: int | str | Sequence[int], root: Path, model: str, window: int = 1) -> tuple[list[int], str]:
    """What layers are meant by a number, several, a range, ``"golden"``, or the path of an ``attribution.json``.

    Args:
        layer: The user's word: ``5``, ``[4, 5, 6]``, ``"4-8"``, ``"golden"``, or a path.
        root: Folder in which ``fit`` left its attribution.
        model: Name of the model that is to be edited.
        window: How many layers the editing method wants for ``golden``; see :func:`golden_window`.

    Returns:
        The layers' indices, ascending, and where they come from, in words.

    Raises:
        LayerError: If there is no such file, it was made for another model, or the word means nothing.
    """
    if not isinstance(layer, int | str):
        return sorted(layer), "given"
    if isinstance(layer, int) or re.fullmatch("-?[0-9]+", layer):
        return [int(layer)], "given"
    if match := re.fullmatch("([0-9]+)-([0-9]+)", layer):
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise LayerError(f"The range of layers {layer!r} is empty. Write the shallower one first, as in 4-8.")
        return list(range(first, last + 1)), "given"
    path = root if layer == "golden" else Path(layer).expanduser()
    path = path / ATTRIBUTION_FILE if path.is_dir() or layer == "golden" else path
    attribution = LocatorResult.load(path)
    if attribution.model != model and not _same_folder(attribution.model, model):
        raise LayerError(
            f"{str(path)!r} was made for the model {attribution.model!r}, not for {model!r}: a golden layer holds for one "
            "model. Run `lga fit` for this one, or give --model.layer a number."
        )
    if window == 1:
        return [attribution.choice.golden_layer], f"golden layer of {path}"
    return golden_window(attribution.choice, window), f"golden window of {path}"


def golden_window(choice: Choice, window: int) -> list[int]:
    """The layers that ``golden`` stands for where a method edits several.

    The run of ``window`` consecutive layers with the highest sum of scores among those that hold the golden layer and no
    layer outside the fences; the shallower one of equals. Where the fences leave no run as long as that, it is shorter.

    Args:
        choice: Scores, fences and the golden layer.
        window: How many layers, at most.

    Example:
        >>> import torch
        >>> from lga_lightning.locators.selection import choose
        >>> choice = choose(torch.tensor([[1.0, 3.0, 9.0, 8.0, 2.0, 900.0]]), kappa=1.0, resamples=10)
        >>> choice.golden_layer, choice.excluded, golden_window(choice, 3)
        (2, [5], [1, 2, 3])
    """
    golden, excluded = choice.golden_layer, set(choice.excluded) - {choice.golden_layer}
    first = last = golden
    while first > 0 and first - 1 not in excluded:
        first -= 1
    while last + 1 < len(choice.scores) and last + 1 not in excluded:
        last += 1
    size = min(window, last - first + 1)
    starts = range(max(first, golden - size + 1), min(golden, last - size + 1) + 1)
    best = max(starts, key=lambda start: (sum(choice.scores[start : start + size]), -start))
    return list(range(best, best + size))


def _same_folder(one: str, other: str) -> bool:
    return Path(one).is_dir() and Path(other).is_dir() and Path(one).resolve() == Path(other).resolve()
