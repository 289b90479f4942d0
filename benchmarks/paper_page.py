"""The page of ``paper.py``: the paper's claims with their figures, and a table of all comparisons."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, permutations
from pathlib import Path

import torch
from torch import Tensor

from lga_lightning.locators import LayerSweep
from lga_lightning.metrics.intervals import percentile_interval, resampled_means
from lga_lightning.reports.comparison import Sheet
from lga_lightning.reports.markdown import escape_markdown
from lga_lightning.results.comparison import Comparison
from lga_lightning.results.evidence import EVIDENCE_FILE, LocatorEvidence
from lga_lightning.results.regret import Interval

CELL_FILE = "cell.json"
ANSWER, TEXT, TRACING = "LGA, loss over the answer", "LGA, loss over the text", "CausalTracing"


@dataclass(frozen=True)
class Cell:
    """A comparison that is done: one model, data set and method.

    Attributes:
        model: Name of the model.
        dtype: Dtype of its weights.
        data: Name of the data set.
        method: Name of the method.
        comparison: Its locators and their layers.
        sweep: Scores of the tests at every layer.
    """

    model: str
    dtype: str
    data: str
    method: str
    comparison: Comparison
    sweep: LocatorEvidence

    @classmethod
    def load(cls, place: Path) -> Cell:
        """Read a comparison's folder."""
        note = json.loads((place / CELL_FILE).read_text(encoding="utf-8"))
        sweep = LocatorEvidence.load(place / "tests-0" / "sweep" / EVIDENCE_FILE)
        names = (Path(note["model"]).name, note["dtype"], note["data"], note["method"])
        return cls(*names, Comparison.load(place), sweep)

    @cached_property
    def _drawn(self) -> dict[str, Tensor]:
        return {}

    def drawn(self, part: str = "scores") -> Tensor:
        """Mean of each layer, in points: of the tests as they are, then of a thousand resamples, [1001, L].

        The draws are the same for all methods on a data set, and independent between data sets.

        Args:
            part: A column of the sweep, or ``optimum``: of each request's best layer, [1001, 1].
        """
        if part not in self._drawn:
            points = 100 * self.sweep.evidence.double()
            best = points[:, 0].amax(1, keepdim=True)
            values = best if part == "optimum" else points[:, LayerSweep.columns.index(part)]
            draws = resampled_means(values, seed=zlib.crc32(self.data.encode()))
            self._drawn[part] = torch.cat([values.nanmean(0, keepdim=True), draws])
        return self._drawn[part]

    def layer(self, locator: str) -> int:
        """The layer that a locator picked."""
        return next(row.layer for row in self.comparison.rows if row.name == locator)

    @property
    def best_layer(self) -> int:
        """The best fixed layer of the tests."""
        return self.comparison.sweeps[0].best_layer

    def regret(self, layer: int) -> Tensor:
        """What the best fixed layer has more than a layer, [1001]."""
        scores = self.drawn()
        return scores.amax(1) - scores[:, layer]

    def gap(self) -> Tensor:
        """What the best layer of each request has more than the best fixed one, [1001]."""
        return self.drawn("optimum")[:, 0] - self.drawn().amax(1)

    def lead(self, part: str, locator: str, other: str) -> Tensor:
        """What one locator's layer has more than another's, [1001]; NaN where the data has no such part."""
        scores = self.drawn(part)
        return scores[:, self.layer(locator)] - scores[:, self.layer(other)]


def claim_rows(cells: Sequence[Cell], margin: float) -> list[list[str]]:
    """The paper's claims on one model: claim, model, of what, figure, its 95% interval, and whether it holds.

    Args:
        cells: The model's comparisons.
        margin: Points that may be lost where something is to be nearly as good as the best.
    """
    crossed = [(a, b) for a, b in permutations(cells, 2) if a.method == b.method]
    rows: list[list[str]] = []

    def judge(claim: str, what: str, figure: str, terms: Iterable[Tensor], limit: float, above: bool = False) -> None:
        found = [term for term in terms if term[0].isfinite()]
        cells_of_row = [claim, escape_markdown(cells[0].model), escape_markdown(what)]
        if not found:
            rows.append([*cells_of_row, figure, "", "", "no data"])
            return
        mean = torch.stack(found).mean(0)
        low, high = percentile_interval(mean[1:]).tolist()
        rows.append(
            [*cells_of_row, figure, f"{mean[0]:.1f}", f"[{low:.1f}, {high:.1f}]", verdict(low, high, limit, above)]
        )

    lost, won = f"points lost, at most {margin:g}", "points won, above 0"
    judge(
        "1. A fixed layer is nearly as good as each request's best",
        "best fixed layer",
        lost,
        (c.gap() for c in cells),
        margin,
    )
    for name in (ANSWER, TEXT):
        judge("2. LGA finds it", name, lost, (c.regret(c.layer(name)) for c in cells), margin)
    claim = "3. It carries over to other data"
    judge(claim, "best fixed layer", lost, (b.regret(a.best_layer) for a, b in crossed), margin)
    for name in (ANSWER, TEXT):
        judge(claim, name, lost, (b.regret(a.layer(name)) for a, b in crossed), margin)
    for name in (ANSWER, TEXT):
        for part in LayerSweep.columns[:3]:
            what = f"{name}: {part.removesuffix('s')}"
            judge(
                "4. LGA beats causal tracing", what, won, (c.lead(part, name, TRACING) for c in cells), 0.0, above=True
            )
    return rows


def verdict(low: float, high: float, limit: float, above: bool) -> str:
    """What a 95% interval says of a claim.

    Args:
        low: Its lower end.
        high: Its upper end.
        limit: What the figure is claimed to lie above, or to be at most.
        above: Which of the two.

    Example:
        >>> verdict(0.0, 1.3, 2.0, above=False), verdict(1.0, 3.0, 2.0, above=False), verdict(-2.0, 0.0, 0.0, above=True)
        ('holds', 'open', 'does not hold')
    """
    exceeds, stays = low > limit, high <= limit
    if not exceeds and not stays:
        return "open"
    return "holds" if exceeds == above else "does not hold"


def layer_rows(cells: Sequence[Cell]) -> list[list[str]]:
    """The layer of each locator in each comparison of one model, and how it stands."""
    rows = []
    for cell in cells:
        others = [other for other in cells if other.method == cell.method and other.data != cell.data]
        names = [escape_markdown(name) for name in (cell.model, cell.data, cell.method)]

        def elsewhere(layer: int, others: Sequence[Cell] = others) -> str:
            return ", ".join(f"{escape_markdown(other.data)} {other.regret(layer)[0]:.1f}" for other in others)

        for row in cell.comparison.rows:
            found = row.regrets[0]
            figures = [
                with_interval(found.score, found.score_interval),
                with_interval(found.regret, found.regret_interval),
                with_interval(found.gap, found.gap_interval),
            ]
            what = [escape_markdown(row.name), str(row.layer), f"{row.confidence:.0%}"]
            rows.append([*names, *what, *figures, elsewhere(row.layer)])
        sweep = cell.comparison.sweeps[0]
        score = sweep.scores[sweep.best_layer]
        figures = [f"{score:.1f}", "0.0", f"{sweep.optimum - score:.1f}"]
        rows.append([*names, "best fixed layer", str(sweep.best_layer), "", *figures, elsewhere(sweep.best_layer)])
    return rows


def with_interval(value: float, interval: Interval) -> str:
    """A number of points with its interval.

    Example:
        >>> with_interval(2.25, (1, 3))
        '2.2 [1.0, 3.0]'
    """
    return f"{value:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def made_of(cells: Sequence[Cell]) -> str:
    """What one model's comparisons were made of, as an item of a list."""
    sets = {}
    for cell in cells:
        proxies = max(row.num_requests for row in cell.comparison.rows)
        sets[cell.data] = f"{cell.data} ({cell.comparison.proxies}: {proxies} proxies, {len(cell.sweep.scores)} tests)"
    methods = ", ".join(dict.fromkeys(cell.method for cell in cells))
    return f"- {escape_markdown(f'{cells[0].model}, {cells[0].dtype}: {methods}; on ' + ', '.join(sets.values()))}\n"


def write_page(folder: Path, margin: float, not_done: Sequence[str] = ()) -> str:
    """The page over all comparisons in a folder, as Markdown.

    Args:
        folder: Folder of all studies.
        margin: Points that may be lost where something is to be nearly as good as the best.
        not_done: Comparisons that could not be made, with the reasons.
    """
    cells = [Cell.load(path.parent) for path in sorted(folder.glob(f"*/*/*/{CELL_FILE}"))]
    models = [list(group) for _, group in groupby(cells, key=lambda cell: cell.model)]
    claims = Sheet(
        "Claims",
        ("claim", "model", "of", "figure", "mean", "95% interval", "verdict"),
        [row for group in models for row in claim_rows(group, margin)],
        "Means over data sets and methods, in points, with bootstrap intervals over the tests of each data set; the layers stay as the "
        f"proxies chose them. Where something is to be nearly as good, it holds if the whole interval is at most {margin:g}, and does "
        "not if all of it is above; causal tracing is beaten if the whole interval is above 0. Else it is open. Claim 3 is about "
        "layers chosen on each other data set.",
    )
    layers = Sheet(
        "Layers",
        ("model", "data", "method", "locator", "layer", "sure", "score", "regret", "gap", "regret on other data"),
        [row for group in models for row in layer_rows(group)],
        "Sure: share of bootstrap resamples of the proxies that choose the layer. Score: mean of rewrite, rephrase and locality "
        "after an edit of this one layer, in points. Regret: what the best fixed layer of the tests has more. Gap: what the best layer of each "
        "request by itself has more; it is chosen on the very scores that it is judged by, which flatters it. In brackets: 95% "
        "bootstrap intervals over tests.",
    )
    failed = "".join(f"- {escape_markdown(line)}\n" for line in not_done)
    return (
        "# The study of Golden Layers, again\n\n"
        "Made by `python benchmarks/paper.py --config configs/paper/MODEL.yaml`: the study of "
        "[Golden Layers and Where to Find Them](https://arxiv.org/abs/2602.20207) with the methods and metrics of this package.\n\n"
        + "".join(made_of(group) for group in models)
        + (f"\nNot done:\n\n{failed}" if failed else "")
        + f"\n{claims.markdown()}\n{layers.markdown()}"
    )
