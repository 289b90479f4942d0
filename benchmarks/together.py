"""Where many facts go: what the forecast of one edit, and proxies that are edited together, say of many facts edited in a row.

    python benchmarks/together.py --proxies known.jsonl --many counterfact.json --record docs/results/together.jsonl

At each layer: the forecast of the proxies' edits, each by itself; the proxies edited together (as a ``LayerSweep`` with ``together`` does it); and, as the
truth, the many facts edited group by group, of which some are scored, drawn at random. No subject is both among the proxies and among the
many. A score is the mean of efficacy, generalisation and locality, teacher-forced. What was found is kept by line, so that an interrupted
run goes on.
"""

from __future__ import annotations

import argparse
import json
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torchmetrics.functional import spearman_corrcoef

from lga_lightning import EditDataModule, EditForecast, editing, load_model
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator
from lga_lightning.evaluation.results import EvalResult, mean_scores
from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.architecture import blocks

CONFIG = EvaluationConfig(generate=False, families=PARTS)


class Study:
    """Scores of edits by layer.

    Args:
        options: The options of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model, self.tokenizer = load_model(options.model, options.dtype)
        self.method = getattr(editing, options.method)()
        self.proxies = requests_of(options.proxies, "fit", options.num_proxies)
        self.many = requests_of(options.many, "validate", options.edits)
        self.drawn = [
            self.many[place] for place in EvaluationConfig(scored=options.scored).drawn(range(len(self.many)))
        ]
        self.ways = {"forecast of one": self.forecast, "together": self.together, "in a row": self.in_a_row}

    def forecast(self, layer: int) -> list[float]:
        """What single edits of the proxies are expected to score."""
        return [self._expected[part][layer] for part in PARTS]

    def together(self, layer: int) -> list[float]:
        """What the proxies score when they are one edit."""
        place, count = self.method.window_at(layer), len(self.proxies)
        edit = self.method.compute(self.model, self.tokenizer, self.proxies, place, count)
        return means(self._ask_proxies([edit] * count))

    def in_a_row(self, layer: int) -> list[float]:
        """What facts score when many are edited group by group."""
        session = EditSession(self.method, self.model, self.tokenizer, self.method.window_at(layer))
        for start in range(0, len(self.many), self.options.group):
            session.edit(self.many[start : start + self.options.group], self.options.group)
        return means(self._ask_drawn([session.delta] * len(self.drawn)))

    @cached_property
    def _ask_proxies(self) -> Evaluator:
        return Evaluator(self.model, self.tokenizer, self.proxies, CONFIG)

    @cached_property
    def _ask_drawn(self) -> Evaluator:
        return Evaluator(self.model, self.tokenizer, self.drawn, CONFIG)

    @cached_property
    def _expected(self) -> dict[str, list[float]]:
        locator = EditForecast(self.method)
        _, values, status = score_all(locator, self.model, self.tokenizer, self.proxies).compute()
        means = values[status == 0].double().nanmean(0)
        return {part: means[locator.columns.index(f"expected_{part}")].tolist() for part in PARTS}


def means(results: list[list[EvalResult]]) -> list[float]:
    """By part, the mean after the edits over the requests that have such prompts."""
    return [mean_scores(results, part, "token")[:, 1].nanmean().item() for part in PARTS]


def requests_of(path: str, verb: str, limit: int) -> list[EditRequest]:
    """The first facts of a quarter of a data set's subjects, for ``fit``, or of the others."""
    data = EditDataModule(path, limit=limit, seed=0, proxy_share=0.25)
    data.prepare_data()
    data.setup(verb)
    return list(data.run_data().requests)


def show(console: Console, found: dict[tuple[str, int], list[float]], ways: list[str], title: str) -> None:
    """All scores by layer, and what each way of choosing a layer costs in a row."""
    layers = sorted({layer for _, layer in found})
    table = Table("layer", title=title, caption="Percent: efficacy, generalisation, locality, and their mean.")
    for way in ways:
        table.add_column(way, justify="right")
    for layer in layers:
        cells = [found.get((way, layer)) for way in ways]
        words = ["" if c is None else "  ".join(f"{100 * x:4.1f}" for x in (*c, fmean(c))) for c in cells]
        table.add_row(str(layer), *words)
    console.print(table)
    truth = {layer: 100 * fmean(found[ways[-1], layer]) for layer in layers if (ways[-1], layer) in found}
    if not truth:
        return
    best = max(truth, key=truth.__getitem__)
    console.print(f"Best of {len(truth)} layers {ways[-1]}: {best}, {truth[best]:.1f}.")
    for way in ways[:-1]:
        scored = {layer: fmean(found[way, layer]) for layer in truth if (way, layer) in found}
        if scored.keys() == truth.keys():
            chosen = max(scored, key=scored.__getitem__)
            pairs = torch.tensor([(scored[layer], truth[layer]) for layer in truth], dtype=torch.float64)
            rank = spearman_corrcoef(*pairs.T).item()
            console.print(
                f"{way}: layer {chosen}, {truth[best] - truth[chosen]:.1f} points behind; rank correlation {rank:.2f}."
            )


def main() -> None:
    """Edit, score, and show what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--method", default="UltraEdit", help="a class of lga_lightning.editing, with its defaults")
    parser.add_argument("--proxies", required=True, help="data set with the proxies: facts that the model knows")
    parser.add_argument("--many", required=True, help="data set with the facts that are edited in a row")
    parser.add_argument("--num-proxies", type=int, default=48)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--group", type=int, default=50)
    parser.add_argument("--scored", type=int, default=200)
    parser.add_argument("--layers", type=int, nargs="+", help="edit at these alone; all by default")
    parser.add_argument("--record", type=Path, default=Path("runs/together.jsonl"))
    options = parser.parse_args()
    names = ("model", "dtype", "method", "num_proxies", "edits", "group", "scored")
    study, console = Study(options), Console(width=140, highlight=False)
    about: dict[str, Any] = {name: getattr(options, name) for name in names}
    about |= {"proxies": Path(options.proxies).name, "many": Path(options.many).name}
    about |= {"editor": study.method.settings(study.model)}
    layers = options.layers or range(len(blocks(study.model)))
    options.record.parent.mkdir(parents=True, exist_ok=True)
    lines = options.record.read_text(encoding="utf-8").splitlines() if options.record.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["about"] == about]
    found = {(row["way"], row["layer"]): row["scores"] for row in rows}
    with options.record.open("a", encoding="utf-8") as file:
        for way, score in study.ways.items():
            for layer in layers:
                if (way, layer) not in found:
                    found[way, layer] = score(layer)
                    row = {"way": way, "layer": layer, "scores": found[way, layer], "about": about}
                    file.write(json.dumps(row) + "\n")
                    file.flush()
    title = f"{options.model}, {options.method}: {len(study.proxies)} proxies, {len(study.many)} facts in a row"
    show(console, found, list(study.ways), title)


if __name__ == "__main__":
    main()
