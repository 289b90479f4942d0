"""How well forecasts, other locators and races choose a layer: the tables of docs/results/forecast.md.

    python benchmarks/forecast_page.py runs/forecast/* [--output docs/results/forecast.md]

Reads what ``benchmarks/forecast.py`` left of each model. Proxies are drawn from the facts, and the tests are all other facts, so a
choice is never judged by what led to it; a model's forecast has the constants that all other families of models give
(``benchmarks/forecast_links.py``). A race replays the sweep's own edits of the proxies.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from forecast_links import Swept, batches, read_sweeps, without
from rich.console import Console
from torch import Tensor

from lga_lightning import LGA, CausalTracing, EditForecast, LayerSweep, MiddleLayer, ValueGradient
from lga_lightning.locators import LayerLocator
from lga_lightning.locators.first_order import Ask
from lga_lightning.locators.forecast import LINKS, Link
from lga_lightning.locators.race import Race, RaceSettings
from lga_lightning.utils.io import write_text

DRAWS = 100
SIZES = (10, 24, 50)
RACED = "EditForecast, then a race"
PARTS = ("efficacy", "generalisation", "locality")


@dataclass(frozen=True)
class Case:
    """A model with an editor: the sweep and the forecast [N, 4, L], and every locator's evidence on the same facts."""

    model: str
    editor: str
    sweep: Tensor
    forecast: Tensor
    scores: dict[str, tuple[LayerLocator, Tensor]]
    seconds: dict[str, float]

    @property
    def name(self) -> str:
        """Of the model and the editor."""
        return f"{self.model}, {self.editor}"


def evidence(folder: Path) -> dict[str, tuple[LayerLocator, Tensor, float]]:
    """What the locators that know nothing of edits say of a model's facts, and the seconds that took."""
    known = {"ValueGradient": ValueGradient(), "LGA-answer": LGA(), "LGA-text": LGA(loss="text")}
    found: dict[str, tuple[LayerLocator, Tensor, float]] = {}
    for path in sorted(folder.glob("locator-*")):
        name = path.name.removeprefix("locator-")
        if not name.startswith("EditForecast"):
            tensors, seconds = batches(path)
            found[name] = (known.get(name, CausalTracing()), tensors["values"][:, 0].double(), seconds)
    return found


def case_of(swept: Swept, links: dict[Ask, Link], others: dict[str, tuple[LayerLocator, Tensor, float]]) -> Case:
    """An editor of a model, with the evidence on it."""
    count, layers = len(swept.sweep), swept.sweep.shape[-1]
    forecast = swept.curves(links)
    scores: dict[str, tuple[LayerLocator, Tensor]] = {"EditForecast": (EditForecast(), forecast[:, 0])}
    scores |= {name: (locator, values[:count]) for name, (locator, values, _) in others.items() if len(values) >= count}
    middle = torch.zeros(count, layers, dtype=torch.float64)
    middle[:, layers // 2] = 1
    scores["MiddleLayer"] = (MiddleLayer(), middle)
    scores["the proxies' own sweep"] = (LayerSweep(), swept.sweep[:, 0])
    seconds = {"EditForecast": swept.seconds / count}
    seconds |= {name: spent / len(values) for name, (_, values, spent) in others.items()}
    return Case(swept.model, swept.editor, swept.sweep, forecast, scores, seconds)


def draws(facts: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Proxies and tests."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        order = torch.randperm(facts, generator=generator)
        yield order[:size], order[size:]


def chooser(locator: LayerLocator, scores: Tensor) -> Callable[[Tensor], int]:
    """What a locator picks by some of the facts."""
    return lambda proxies: locator.choose(scores[proxies], 1).golden_layer


def points_lost(tests: Tensor, layer: int) -> float:
    """What the best layer on some tests [N, L] has more than a layer."""
    means = 100 * tests.mean(0)
    return float(means.max() - means[layer])


def expected_regret(case: Case, choose: Callable[[Tensor], int], size: int) -> float:
    """Mean over draws of the points that a choice loses on the tests."""
    sweep = case.sweep[:, 0]
    return fmean(points_lost(sweep[tests], choose(proxies)) for proxies, tests in draws(len(sweep), size))


def race(case: Case, proxies: Tensor, seed: int) -> Race:
    """A race over proxies, which replays the sweep's edits."""
    runner = Race(case.forecast[proxies, 0], RaceSettings(), seed)
    while (turn := runner.next_round()) is not None:
        runner.add(turn, case.sweep[proxies[turn.requests], 0][:, turn.layers])
    return runner


def ranks(values: Tensor) -> Tensor:
    """Ranks, those that tie alike."""
    below = (values.unsqueeze(0) < values.unsqueeze(1)).sum(1)
    return below + ((values.unsqueeze(0) == values.unsqueeze(1)).sum(1) - 1) / 2


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's."""
    return float(torch.corrcoef(torch.stack([ranks(one), ranks(other)]).double())[0, 1])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def regret_table(cases: list[Case], size: int) -> str:
    """Expected regret by locator, and where a locator has all cases, their mean and the worst."""
    cases = [case for case in cases if len(case.sweep) >= 2 * size]
    names = list(dict.fromkeys(name for case in cases for name in case.scores))
    rows = []
    for name in [names[0], RACED, *names[1:]]:
        lost = [regret(case, name, size) for case in cases]
        known = [one for one in lost if one is not None]
        both = [f"{fmean(known):.1f}", f"{max(known):.1f}"] if len(known) == len(cases) else ["", ""]
        rows.append([name, *("" if one is None else f"{one:.1f}" for one in lost), *both])
    return table(["locator", *(case.name for case in cases), "mean", "worst"], rows)


def regret(case: Case, name: str, size: int) -> float | None:
    """Expected regret of a locator, or of a race; None where it was not tried."""
    if name == RACED:
        runs = [(race(case, p, i).standing().layer, t) for i, (p, t) in enumerate(draws(len(case.sweep), size))]
        return fmean(points_lost(case.sweep[tests, 0], layer) for layer, tests in runs)
    return expected_regret(case, chooser(*case.scores[name]), size) if name in case.scores else None


def curve_table(cases: list[Case]) -> str:
    """The forecast's curves against the sweep's."""
    rows = []
    for case in cases:
        real, said = case.sweep.nanmean(0), case.forecast[:, :4].nanmean(0)
        correlations = [f"{rank_correlation(said[part], real[part]):.2f}" for part in range(4)]
        errors = [f"{100 * (said[part] - real[part]).abs().mean():.0f}" for part in range(4)]
        tracing = next((n for n in case.scores if n.startswith("CausalTracing")), None)
        cost = f"1/{case.seconds[tracing] / case.seconds['EditForecast']:.0f}" if tracing else ""
        rows.append([case.name, str(len(case.sweep)), *correlations, *errors, cost])
    head = [
        "",
        "facts",
        *(f"rank corr., {part}" for part in ("score", *PARTS)),
        *(f"error, {part}" for part in ("score", *PARTS)),
    ]
    return table([*head, "cost against causal tracing"], rows)


def gap_table(cases: list[Case]) -> str:
    """What the best fixed layer scores, and what the best layer of each fact by itself."""
    rows = []
    for case in cases:
        points = 100 * case.sweep[:, 0]
        fixed, own = float(points.mean(0).max()), float(points.amax(1).mean())
        rows.append([case.name, str(int(points.mean(0).argmax())), f"{fixed:.1f}", f"{own:.1f}", f"{own - fixed:.1f}"])
    return table(["", "best fixed layer", "its score", "each fact's own best layer", "gap"], rows)


def honesty_table(cases: list[Case]) -> str:
    """What races say of their confidence, and how often the layer is within a point of the best over all facts."""
    edges = (0.0, 0.5, 0.7, 0.8, 0.9, 1.01)
    said: list[tuple[str, float, bool, float]] = []
    for case in cases:
        size, means = len(case.sweep) // 2, 100 * case.sweep[:, 0].mean(0)
        for seed, (proxies, _) in enumerate(draws(len(case.sweep), size)):
            run = race(case, proxies, seed)
            standing = run.standing()
            close = bool(means.max() - means[standing.layer] <= 1.0)
            said.append((case.name, standing.confidence, close, standing.edits / run.table.numel()))
    rows = []
    for low, high in itertools.pairwise(edges):
        chosen = [one for one in said if low <= one[1] < high]
        if chosen:
            stated, held = fmean(one[1] for one in chosen), fmean(one[2] for one in chosen)
            rows.append([f"{low:.0%} to {min(high, 1):.0%}", str(len(chosen)), f"{stated:.0%}", f"{held:.0%}"])
    by_case = []
    for case in cases:
        own = [one for one in said if one[0] == case.name]
        shares = [f"{fmean(float(one[k]) for one in own):.0%}" for k in (1, 2, 3)]  # type: ignore[arg-type]
        by_case.append([case.name, *shares])
    first = table(["confidence stated", "races", "mean stated", "within 1.0 point of the best"], rows)
    return first + "\n" + table(["", "mean stated", "within 1.0 point", "edits, of the sweep's"], by_case)


def links_table(links: dict[str, dict[Ask, Link]]) -> str:
    """Thresholds and steepnesses, by the family that was left out."""
    rows = [[family, *(f"{link.threshold}, {link.steepness}" for link in of.values())] for family, of in links.items()]
    return table(["left out", *(ask.name.lower() for ask in Ask)], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--curves",
        action="store_true",
        help="the forecasts' curves alone, with the package's constants: no sweep by R-ROME is needed",
    )
    args = parser.parse_args()
    console = Console(soft_wrap=True, markup=False, highlight=False)
    sweeps = [one for folder in args.folders for one in read_sweeps(folder)]
    if args.curves:
        console.print(curve_table([case_of(one, LINKS, {}) for one in sweeps]))
        return
    links = {family: without(family, sweeps) for family in dict.fromkeys(one.family for one in sweeps)}
    others = {folder.name: evidence(folder) for folder in args.folders}
    cases = [case_of(one, links[one.family], others[one.model]) for one in sweeps]
    main_cases = [case for case in cases if case.editor.startswith("RROME")]
    about = {folder.name: json.loads((folder / "about-RROME.json").read_text()) for folder in args.folders}
    models = "; ".join(
        f"{name}: {one['model'].split('/')[-1]}, {one['facts']} facts, {one['dtype']}" for name, one in about.items()
    )
    parts = [f"Models: {models}.\n"]
    parts += [
        f"### Expected regret with {size} proxies, in points\n\n{regret_table(main_cases, size)}" for size in SIZES
    ]
    parts += [f"### The forecast's curves against the sweep's\n\n{curve_table(cases)}"]
    parts += [f"### The best fixed layer, and each fact's own best\n\n{gap_table(cases)}"]
    parts += [f"### Is the race's confidence honest?\n\n{honesty_table(main_cases)}"]
    parts += [
        f"### The constants, without each family of models\n\n{links_table({**links, 'none': without('', sweeps)})}"
    ]
    text = "\n".join(parts)
    if args.output:
        before = args.output.read_text(encoding="utf-8").split("<!-- tables -->")[0] if args.output.exists() else ""
        write_text(args.output, f"{before}<!-- tables -->\n\n{text}")
    console.print(text)


if __name__ == "__main__":
    main()
