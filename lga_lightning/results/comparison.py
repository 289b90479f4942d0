"""``comparison.json``: locators side by side, judged by a sweep."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from lga_lightning.exceptions import DataError
from lga_lightning.results.files import ResultFile, take_fields, write_result
from lga_lightning.results.regret import Candidate, LayerRegret, RegretPoint
from lga_lightning.results.typed import typed
from lga_lightning.results.versions import versions

COMPARISON_FILE = "comparison.json"

_FILE = ResultFile(
    what="a comparison",
    verb="lga compare",
    error=DataError,
    missing="There is no comparison at {path}. Run `lga compare` first (with the same --trainer.default_root_dir).",
)


@dataclass(frozen=True)
class SweepResult:
    """The sweep over a test set.

    Attributes:
        data: Name of the test set.
        num_requests: How many requests count.
        seconds: How long the sweep took.
        scores: [L] mean score (of rewrite, rephrase and locality) of edits at each layer, in points; NaN at layers that were not
            candidates.
        parts: By name, [L] means of rewrite, rephrase and locality alone, in points.
        best_layer: The best fixed layer.
        optimum: Mean score if each request were edited at the layer that is best for itself, in points.
        own_layer: The layer that the first locator picks on proxies of this very data set; None for the comparison's own.
    """

    data: str
    num_requests: int
    seconds: float
    scores: list[float]
    parts: dict[str, list[float]]
    best_layer: int
    optimum: float
    own_layer: int | None = None

    @property
    def edited(self) -> list[int]:
        """The layers at which the tests were edited."""
        return [layer for layer, score in enumerate(self.scores) if not isnan(score)]


@dataclass(frozen=True)
class LocatorRow:
    """A locator's part in a comparison.

    Attributes:
        name: Name that the user gave it.
        layer: Layer that it picks with all proxies.
        confidence: Share of bootstrap resamples of the proxies that choose it.
        num_requests: How many proxies counted.
        seconds: How long its scores of all proxies took.
        speed_up: How many times as long a sweep at all layers takes, for as many requests.
        regrets: How the layer stands on each test set, in the order of the comparison's sweeps.
        points: Expected regret and confidence by number of proxies, on the first test set.
        settings: Settings of the locator, with its class.
    """

    name: str
    layer: int
    confidence: float
    num_requests: int
    seconds: float
    speed_up: float
    regrets: list[LayerRegret]
    points: list[RegretPoint]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The result; the content of ``comparison.json``.

    Attributes:
        model: Name of the model.
        proxies: Name of the proxy set.
        editor: Settings of the method that the sweep edits with.
        sweeps: The sweep over each test set.
        rows: What became of each locator.
        candidates: Every rule that the gradients' evidence allows, best first; empty unless asked for.
        versions: Versions of the packages that made it.
    """

    model: str
    proxies: str
    editor: dict[str, Any]
    sweeps: list[SweepResult]
    rows: list[LocatorRow]
    candidates: list[Candidate] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)

    def save(self, root: Path) -> None:
        """Write ``comparison.json`` into a folder, whole."""
        write_result(root / COMPARISON_FILE, asdict(self))

    @classmethod
    def load(cls, root: Path) -> Comparison:
        """Read ``comparison.json`` from a folder.

        Raises:
            DataError: If there is no such file, it is not a comparison, or it lacks a field or has one that is unknown.
        """
        with _FILE.reading(root / COMPARISON_FILE) as content:
            return typed(cls(**take_fields(cls, content)))
