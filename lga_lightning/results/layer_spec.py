"""Which layers a user's word means: parsed once, resolved once."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lga_lightning.editing.base import EditMethod, ascending
from lga_lightning.exceptions import LayerError
from lga_lightning.locators.selection import Choice
from lga_lightning.models.architecture import blocks
from lga_lightning.models.weights import may_be_the_same, weights_mark
from lga_lightning.results.atlas import atlas_layers
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult
from lga_lightning.utils.io import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LayerWord = int | str | Path | Sequence[int]

ALL, ATLAS, DEFAULT, GOLDEN = "all", "atlas", "default", "golden"
WAYS = (
    "a number, several ([4, 5]), a range (4-8), 'all', 'atlas', 'default', 'golden', or the path of an attribution.json"
)


@dataclass(frozen=True)
class LayerSpec:
    """What a user's word for layers means, in three steps: :meth:`parse` the word, :meth:`find` the file, :meth:`layers_for` a model.

    The first needs nothing but the word and the second no model, so both can fail before one is loaded.

    Attributes:
        word: ``all``, ``atlas``, ``default``, ``golden``, or a path; empty where blocks are given by number.
        given: Indices of blocks, ascending, where they are given by number.
        result: The result that holds the golden layer, once it is found.
        source: Where that result is from, in words.

    Example:
        >>> LayerSpec.parse("4-6").given, LayerSpec.parse([7, 3]).given, LayerSpec.parse("golden").word
        ((4, 5, 6), (3, 7), 'golden')
    """

    word: str = ""
    given: tuple[int, ...] = ()
    result: LocatorResult | None = None
    source: str = ""

    @classmethod
    def parse(cls, word: LayerWord) -> LayerSpec:
        """Read a word; no file is looked at.

        Args:
            word: ``5``, ``[4, 5, 6]``, ``"4-8"``, ``"all"``, ``"atlas"`` (what was measured for the model, see
                ``docs/atlas.md``), ``"default"`` (of the editing method), ``"golden"`` (what ``fit`` left
                behind), or the path of an ``attribution.json`` or of its folder.

        Raises:
            LayerError: If the word can mean nothing: a negative number, no number at all, an empty range.
        """
        if isinstance(word, Path):
            return cls(str(word))
        if isinstance(word, str):
            if not word.strip():
                raise LayerError(f"The layer {word!r} is empty. Give {WAYS}.")
            if match := re.fullmatch(r"\s*([0-9]+)\s*-\s*([0-9]+)\s*", word):
                first, last = int(match[1]), int(match[2])
                if first > last:
                    raise LayerError(
                        f"The range of layers {word!r} is empty. Write the shallower one first, as in 4-8."
                    )
                return cls(given=tuple(range(first, last + 1)))
            if not re.fullmatch(r"\s*-?[0-9]+\s*", word):
                return cls(word)
            word = int(word)
        numbers: Iterable[object] = word if isinstance(word, Iterable) and _index(word) is None else [word]
        given = {_index(number): number for number in numbers}
        if not given:
            raise LayerError(f"The list of layers is empty. Give {WAYS}.")
        for index, number in given.items():
            if index is None or index < 0:
                raise LayerError(f"{number!r} is no layer: blocks are numbered 0, 1, 2, ... Give {WAYS}.")
        return cls(given=tuple(sorted(index for index in given if index is not None)))

    @property
    def stands_for_a_file(self) -> bool:
        """Whether a file says which block is meant, and has not been read."""
        return not self.given and self.result is None and self.word not in (ALL, ATLAS, DEFAULT)

    def check(self) -> None:
        """Refuse a word that means nothing, where the file that it may stand for need not be there yet.

        Raises:
            LayerError: If it is none of the known words, and neither looks like a path nor is one.
        """
        looks_like_path = not self.word.isidentifier() or user_path(self.word).exists()
        if self.word and f"'{self.word}'" not in WAYS and not looks_like_path:
            raise LayerError(f"The layer {self.word!r} means nothing. Give {WAYS}.")

    @classmethod
    def of(cls, result: LocatorResult, source: str) -> LayerSpec:
        """The golden layer of a result that is at hand.

        Args:
            result: The result.
            source: Where it is from, in words, as in ``"this run"``.
        """
        return cls(GOLDEN, result=result, source=source)

    def find(self, root: Path, model_name: str) -> LayerSpec:
        """With the file read that ``golden`` or a path stands for; any other word is returned as it is.

        Args:
            root: Folder in which ``fit`` left its ``attribution.json``.
            model_name: Name of the model that is to be edited.

        Raises:
            LayerError: If there is no such file, it is not an attribution, or it was made for another model.
        """
        if not self.stands_for_a_file:
            return self
        path = root if self.word == GOLDEN else user_path(self.word)
        path = path / ATTRIBUTION_FILE if path.is_dir() or self.word == GOLDEN else path
        result = LocatorResult.load(path)
        if result.model != model_name and not _same_folder(result.model, model_name):
            raise LayerError(
                f"{str(path)!r} was made for the model {result.model!r}, not for {model_name!r}: a golden layer holds for one "
                "model. Run `lga fit` for this one, or give --model.layer a number."
            )
        return replace(self, result=result, source=str(path))

    def layers_for(self, editor: EditMethod | None, llm: PreTrainedModel) -> tuple[list[int], str]:
        """The blocks of a model, and where they come from.

        Args:
            editor: The editing method, for its default layers and for how many it likes to edit around the golden one; None
                where there is none: ``golden`` is then a single layer.
            llm: The model.

        Returns:
            Indices of blocks, ascending, and their source in words: ``given``, ``default of the method``, ``atlas: ...``, ``golden
            layer of ...`` or ``golden window of ...``, and for which method it was found where that is another one.

        Raises:
            LayerError: If the model lacks one of the blocks, the atlas lacks the model or the method, or ``atlas`` or ``default`` is
                asked for without a method.
            RuntimeError: If the word stands for a file and :meth:`find` has not been called.
        """
        if self.result is not None:
            window = editor.window if editor is not None else 1
            layers = _golden_layers(self.result, editor, window)
            source = f"golden {'layer' if window == 1 else 'window'} of {self.source}"
            source += _found_for(self.result, editor, llm)
        elif self.given:
            layers, source = list(self.given), "given"
        elif self.word == ALL:
            layers, source = list(range(len(blocks(llm)))), "given"
        elif self.word in (ATLAS, DEFAULT):
            if editor is None:
                raise LayerError(
                    f"{self.word!r} layers are those of an editing method, and there is none here. Give them by number."
                )
            if self.word == ATLAS:
                layers, source = atlas_layers(editor, llm)
            else:
                layers, source = editor.default_layers(llm), "default of the method"
        else:
            raise RuntimeError(f"The layer {self.word!r} stands for a file. Call find() before layers_for().")
        return ascending(llm, layers), source

    def check_weights(self, llm: PreTrainedModel) -> None:
        """Refuse the golden layer of another model of this one's name.

        Args:
            llm: The model.

        Raises:
            LayerError: If it has other weights than the model that was scored, in the same dtype.
        """
        if self.result is not None and not may_be_the_same(self.result.weights, weights_mark(llm)):
            raise LayerError(
                f"The golden layer of {self.source} was found on other weights of {self.result.model!r} than are loaded now: the "
                "model was trained, edited or replaced since. Run `lga fit` for it again, or give --model.layer a number."
            )


def _found_for(result: LocatorResult, editor: EditMethod | None, llm: PreTrainedModel) -> str:
    """For which method, or with which C, a layer was found, where its edits are made by another, or with another."""
    if editor is None or result.method is None:
        return ""
    if result.method != editor.name:
        return f", found for {result.method}"
    found, asked = (settings.get("second_moment") for settings in (result.editor, editor.settings(llm)))
    return f", found for {result.method} with second_moment {found}, not {asked}" if found not in (None, asked) else ""


def _golden_layers(result: LocatorResult, editor: EditMethod | None, window: int) -> list[int]:
    """The window that a forecast, a sweep or a race is about, which ends at its layer; else the one of the best scores around it."""
    golden = result.golden_layer
    if (
        editor is not None
        and (result.race is not None or result.method == editor.name)
        and result.golden_layers == editor.window_at(golden)
    ):
        return result.golden_layers
    return golden_window(replace(result.choice, golden_layer=golden), window)


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


def _index(number: object) -> int | None:
    """A whole number, NumPy's and torch's too, as an int; None of anything else."""
    try:
        return None if isinstance(number, bool) else operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        return None


def _same_folder(one: str, other: str) -> bool:
    first, second = user_path(one), user_path(other)
    return first.is_dir() and second.is_dir() and first.resolve() == second.resolve()
