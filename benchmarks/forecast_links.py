"""What the forecast's constants are, and which they would be without a family of models.

    python benchmarks/forecast_links.py runs/forecast/*

The forecast ends in three links from gains to probabilities, of two constants each (``LINKS`` in ``lga_lightning.locators.forecast``).
They are those that come nearest to what edits by R-ROME scored, fact by fact and layer by layer (least mean squared error, every
family of models weighs the same), in the evidence that ``benchmarks/forecast.py`` left. ``benchmarks/forecast_page.py`` judges each
model by the constants that all *other* families give.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from safetensors import safe_open
from torch import Tensor

from lga_lightning.locators.first_order import Ask, ForecastRows
from lga_lightning.locators.forecast import Link

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0)
STEEPNESSES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Swept:
    """A model with an editor, of which N facts were edited at all L layers, and forecast.

    Attributes:
        model: The folder's name.
        family: The model's type.
        editor: Name of the editor.
        sweep: [N, 4, L] scores: the mean, rewrite, rephrase, locality.
        owner: [R] the fact that a row belongs to.
        ask: [R] what it asks.
        rows: The forecast of the R rows.
        seconds: What the forecast took.
    """

    model: str
    family: str
    editor: str
    sweep: Tensor
    owner: Tensor
    ask: Tensor
    rows: ForecastRows
    seconds: float

    def expected(self, ask: Ask, link: Link) -> Tensor:
        """[N, L] what a link expects of the rows that ask one thing, NaN where a fact has none."""
        mine = self.ask == ask
        return link.expected(ask, self.rows.part(mine), self.owner[mine], len(self.sweep))

    def curves(self, links: dict[Ask, Link]) -> Tensor:
        """[N, 4, L] expected scores, in the order of the sweep."""
        three = torch.stack([self.expected(ask, link) for ask, link in links.items()], 1)
        return torch.cat([three.nanmean(1, keepdim=True), three], 1)


def batches(folder: Path) -> tuple[dict[str, Tensor], float]:
    """The tensors that were kept batch by batch under a folder, and the seconds that they took."""
    parts, seconds = [], 0.0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            parts.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - it cannot be iterated over
            seconds += float((file.metadata() or {}).get("seconds", 0))
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}, seconds


def read_sweeps(folder: Path) -> Iterator[Swept]:
    """All editors of a model's folder that were swept and forecast."""
    family = json.loads(next(folder.glob("about-*.json")).read_text())["family"]
    for path in sorted(folder.glob("sweep-*")):
        editor = path.name.removeprefix("sweep-")
        if not any((folder / f"locator-EditForecast-{editor}").glob("*.safetensors")):
            continue  # the sweep has not ended
        sweep = batches(path)[0]["values"].double()
        found, seconds = batches(folder / f"locator-EditForecast-{editor}")
        owner, ask = found.pop("owner"), found.pop("ask")
        sweep = sweep[: int(owner.max()) + 1]
        known = owner < len(sweep)
        rows = ForecastRows(**found).part(known)
        yield Swept(folder.name, family, editor, sweep, owner[known], ask[known], rows, seconds)


def fit(sweeps: Sequence[Swept]) -> dict[Ask, Link]:
    """The links that come nearest to sweeps."""
    families = {one.family for one in sweeps}

    def wrong(ask: Ask, link: Link) -> float:
        return fmean(
            fmean(
                float((one.expected(ask, link) - one.sweep[:, 1 + ask]).square().nanmean())
                for one in sweeps
                if one.family == family
            )
            for family in families
        )

    grid = [Link(*pair) for pair in itertools.product(THRESHOLDS, STEEPNESSES)]
    return {ask: min(grid, key=lambda link, ask=ask: wrong(ask, link)) for ask in Ask}  # type: ignore[misc]


def without(family: str, sweeps: Sequence[Swept]) -> dict[Ask, Link]:
    """The links that sweeps by R-ROME of all other families give."""
    return fit([one for one in sweeps if one.family != family and one.editor.startswith("RROME")])


def main() -> None:
    """Print the constants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    args = parser.parse_args()
    sweeps = [one for folder in args.folders for one in read_sweeps(folder)]
    if len({one.family for one in sweeps}) < 2:
        parser.error("These folders hold one family of models: to leave one out, name folders of two at least.")
    console = Console(soft_wrap=True, highlight=False)
    for family in [*sorted({one.family for one in sweeps}), ""]:
        console.print(f"without {family}" if family else "all models")
        for ask, link in without(family, sweeps).items():
            console.print(f"    {ask.name.lower()}: threshold {link.threshold}, steepness {link.steepness}")


if __name__ == "__main__":
    main()
