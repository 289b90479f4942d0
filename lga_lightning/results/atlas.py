"""The atlas: for models that were measured, the layer by method with its evidence; a JSON file each, in ``lga_lightning/atlas/``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.editing.base import EditMethod
from lga_lightning.exceptions import LayerError, SettingError
from lga_lightning.locators.base import LayerLocator
from lga_lightning.models.architecture import signature
from lga_lightning.models.loading import hub_name, name_of
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.files import SCHEMA, ResultFile, take_fields
from lga_lightning.results.typed import typed
from lga_lightning.utils.io import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATLAS_FOLDER = Path(__file__).parents[1] / "atlas"
ATLAS_FILE = "atlas_entry.json"
EVIDENCE = ("forecast", "race", "sweep")
"""From the weakest to the strongest: no edit was made, edits at a few layers, edits at every layer."""

_FILE = ResultFile(
    what="a page of the atlas",
    verb="lga fit --attribution.atlas true",
    error=LayerError,
    missing="There is no page of the atlas at {path}.",
)


@dataclass(frozen=True)
class AtlasEntry:
    """A layer of a model for a method, and how that is known.

    Attributes:
        method: Name of the editing method, as the field writes it.
        layers: The blocks that are edited, ascending: one, or a window.
        evidence: One of ``EVIDENCE``.
        score: What edits there score, of a forecast are expected to: the mean of rewrite, rephrase and locality, in points.
        interval: Its 95% interval over facts, in points; None where it was not recorded, or there is one fact alone.
        facts: Number of facts that were edited, of a forecast scored.
        data: What facts they were.
        settings: Settings of the method, as far as they are known.
        date: Day of the measurement, YYYY-MM-DD.
        version: Version of this package.
        source: Where the figures are from: a page of results, or the command.
    """

    method: str
    layers: list[int]
    evidence: str
    score: float
    interval: tuple[float, float] | None
    facts: int
    data: str
    settings: dict[str, Any]
    date: str
    version: str
    source: str

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE:
            raise ValueError(f"`evidence` must be one of {list(EVIDENCE)}, got {self.evidence!r}")
        if not self.layers or self.layers != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"`layers` must be numbers of blocks, ascending, got {self.layers}")
        datetime.strptime(self.date, "%Y-%m-%d")

    @property
    def covariance(self) -> str | None:
        """What C the method had: ``identity`` or ``text``; None for a method that has none, or where nobody knows."""
        source = self.settings.get("second_moment")
        return source if source in (None, "identity") else "text"

    @classmethod
    def of(cls, result: LocatorResult, editor: EditMethod) -> AtlasEntry:
        """What ``fit`` has found out for a method.

        Args:
            result: Its result: a forecast, a sweep, or one that a race has verified.
            editor: The method that it is about.

        Example:
            >>> from lga_lightning import RROME, find_golden_layer
            >>> def entry(model, tokenizer, facts):
            ...     return AtlasEntry.of(find_golden_layer(model, tokenizer, facts), RROME())
        """
        race, golden = result.race, result.golden_layer
        score, interval = result.edit_scores[golden], result.edit_intervals[golden]
        if race is not None:
            evidence, facts = "race", race.requests
        else:
            evidence, facts = "sweep" if result.is_sweep else "forecast", result.num_requests
        return cls(
            method=editor.name,
            layers=result.golden_layers,
            evidence=evidence,
            score=score,
            interval=None if math.isnan(interval[0]) else interval,
            facts=facts,
            data=result.data,
            settings={name: value for name, value in result.editor.items() if name != "name"},
            date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            version=result.versions["lga-lightning"],
            source=_FILE.verb,
        )


@dataclass(frozen=True)
class AtlasPage:
    """What the atlas knows of a model.

    Attributes:
        model: What others load it by, a Hub id say.
        signature: What tells its architecture apart: model type, number of blocks, width of a key.
        entries: A layer by method, with its evidence.
    """

    model: str
    signature: tuple[str, int, int]
    entries: list[AtlasEntry] = field(default_factory=list)

    @classmethod
    def of(cls, result: LocatorResult, editor: EditMethod, model: PreTrainedModel) -> AtlasPage:
        """A page with what one ``fit`` has found out, to be contributed.

        Args:
            result: Its result.
            editor: The method that the run edits with.
            model: The model.
        """
        return cls(hub_name(result.model), signature(model), [AtlasEntry.of(result, editor)])

    def save(self, path: Path) -> None:
        """Write the file, whole."""
        write_json(path, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> AtlasPage:
        """Read a file.

        Raises:
            LayerError: If it is no page of the atlas, or lacks a field or has one that is unknown.
        """
        with _FILE.reading(path) as content:
            return typed(cls(**take_fields(cls, content)))

    def best(self, editor: EditMethod, model: PreTrainedModel) -> AtlasEntry | None:
        """The entry for a method with the strongest evidence; None where there is none.

        One with the same kind of C comes first, then edits at every layer, then more facts, then the latest.

        Args:
            editor: The method.
            model: The model that is to be edited.
        """
        wanted = editor.settings(model).get("second_moment")
        kind = wanted if wanted in (None, "identity") else "text"
        return max(
            (entry for entry in self.entries if entry.method == editor.name),
            key=lambda e: (e.covariance == kind, EVIDENCE.index(e.evidence), e.facts, e.date),
            default=None,
        )


def check_measured(locator: LayerLocator, editor: EditMethod, model: PreTrainedModel) -> None:
    """Refuse a locator whose scores are neither those of a method's edits nor a forecast of them: they are not for the atlas.

    Args:
        locator: How layers are scored.
        editor: The method that the run edits with.
        model: The model.

    Raises:
        SettingError: Says what to take in its place.
    """
    made_with = locator.settings(model)
    if made_with.get("together") or "layers" in made_with:
        raise SettingError(
            f"The atlas holds what edits of one fact score at every layer, and {locator!r} edits facts together, or at some layers alone. "
            "Leave out `together` and `layers`, or --attribution.atlas."
        )
    if made_with.get("editor", {}).get("name") != editor.name:
        raise SettingError(
            f"The atlas holds what edits score, and {locator!r} says nothing of edits by {editor.name}. Take --model.locator EditForecast or "
            "LayerSweep, with no editor of its own, or let edits verify the layer (--verify)."
        )


def read_atlas(folder: Path = ATLAS_FOLDER) -> list[AtlasPage]:
    """All pages, in the order of the models' names.

    Args:
        folder: Folder of the pages.

    Raises:
        LayerError: If a file is no page.
    """
    return sorted((AtlasPage.load(path) for path in folder.glob("*.json")), key=lambda page: page.model.lower())


def atlas_layers(
    editor: EditMethod, model: PreTrainedModel, pages: Sequence[AtlasPage] | None = None
) -> tuple[list[int], str]:
    """The layers that the atlas has for a model and a method.

    A model that has no page takes that of one of the same shape, which it may be a fine-tune of, with a warning.

    Args:
        editor: The method.
        model: The model.
        pages: The atlas; by default the one of this package.

    Returns:
        Indices of blocks, ascending, and where they come from, in words.

    Raises:
        LayerError: If there is nothing for the model, or for the method.
    """
    pages = read_atlas() if pages is None else pages
    name, shape = hub_name(name_of(model)), signature(model)
    named = [page for page in pages if page.model == name]
    alike = [page for page in pages if page.signature == shape]
    otherwise = "`lga fit` finds the layer for it in minutes, and docs/atlas.md says how to contribute it."
    if named and named[0].signature != shape:
        raise LayerError(
            f"The atlas has {name!r} with the shape {named[0].signature} (type, blocks, width of a key), and this model has {shape}: it is "
            f"another one of that name. {otherwise}"
        )
    if not alike:
        raise LayerError(f"The atlas has neither {name!r} nor a model of its shape, {shape}. {otherwise}")
    if not named and len(alike) > 1:
        raise LayerError(
            f"The atlas has no {name!r}, and several models of its shape: {', '.join(page.model for page in alike)}. {otherwise}"
        )
    page = named[0] if named else alike[0]
    entry = page.best(editor, model)
    if entry is None:
        methods = ", ".join(sorted({entry.method for entry in page.entries}))
        raise LayerError(f"The atlas has {page.model} with {methods}, and not with {editor.name}. {otherwise}")
    source = f"atlas: {entry.evidence} of {entry.facts} facts of {entry.data} on {page.model}, {entry.date}"
    if not named:
        source += f", whose shape {name} has"
        warnings.warn(
            f"The atlas has no {name!r}. It takes the layer of {page.model}, which has the same shape: good for a fine-tune of that, and not "
            f"measured for this one. {otherwise}",
            stacklevel=2,
        )
    return entry.layers, source
