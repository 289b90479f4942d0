"""``comparison.json``: locators side by side, judged by a sweep."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lga_lightning.results.attribution import SCHEMA
from lga_lightning.results.regret import Candidate, LayerRegret, RegretPoint
from lga_lightning.results.versions import versions
from lga_lightning.utils.io import write_json

COMPARISON_FILE = "comparison.json"


@dataclass(frozen=True)
class SweepResult:
    """The sweep over a test set.

    Attributes:
        data: Its name.
        num_requests: How many requests count.
        seconds: How long the sweep took.
        scores: [L] mean score (of rewrite, rephrase and locality) of edits at each layer, in points.
        parts: [L] a name: means of rewrite, rephrase and locality alone, in points.
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


@dataclass(frozen=True)
class LocatorRow:
    """A locator's part in a comparison.

    Attributes:
        name: As the user named it.
        layer: Its layer with all proxies.
        confidence: Share of bootstrap resamples of the proxies that choose it.
        num_requests: How many proxies counted.
        seconds: How long it took for all proxies.
        speed_up: How many times as long the sweep takes, for as many requests.
        standings: How the layer stands on each test set, in the order of the comparison's.
        points: Expected regret and confidence by number of proxies, on the first test set.
        settings: The locator's, with its class.
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
        sweeps: The sweep, a test set each.
        rows: The locators.
        candidates: Every rule that LGA's evidence allows, best first; empty unless asked for.
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
        write_json(root / COMPARISON_FILE, {"schema": SCHEMA, **asdict(self)})
