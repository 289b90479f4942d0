"""Searches for the target value side by side: CPU seconds an edit, and scores, fact by fact.

Every fact is edited alone by R-ROME, with each search in turn, three facts at a time. What was found is kept by line, so that an
interrupted run goes on. Differences to the first search are paired; intervals are of a bootstrap over facts.

    python benchmarks/search.py [--facts 200] [--searches published in-turn] [--output runs/search.jsonl]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lga_lightning import RROME, load_model, load_requests
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.metrics.intervals import percentile_interval, resampled_means

SEARCHES: dict[str, dict[str, Any]] = {
    "published": {},
    "in-turn": {"contexts_each_step": 5},
    "in-turn-3": {"contexts_each_step": 3},
}
MEASURES = ("rewrite", "rephrase", "portability", "locality", "loss")
CHUNK = 3  # facts: with 21 contexts, the rows of a batch on a CPU


def main() -> None:
    """Edit, score, and show what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--data", default=None, help="the bundled facts by default")
    parser.add_argument("--facts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of facts")
    parser.add_argument("--contexts", type=int, default=10, help="sampled texts of 5 and of 10 tokens")
    parser.add_argument("--second-moment", default="bundled")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=["published", "in-turn"])
    parser.add_argument("--output", type=Path, default=Path("runs/search.jsonl"))
    options = parser.parse_args()
    facts = load_requests(options.data).requests
    facts = random.Random(options.seed).sample(facts, len(facts))[: options.facts]  # more facts are those and others
    options.output.parent.mkdir(parents=True, exist_ok=True)
    records = read(options.output)
    model, tokenizer = load_model(options.model)
    methods = {
        name: RROME(contexts_each=options.contexts, second_moment=options.second_moment, **SEARCHES[name])
        for name in options.searches
    }
    with options.output.open("a", encoding="utf-8") as file:
        for start in range(0, len(facts), CHUNK):
            chunk = facts[start : start + CHUNK]
            evaluator = Evaluator(model, tokenizer, chunk, EvaluationConfig(generate=False))
            for name, method in methods.items():
                if (name, start) in records:
                    continue
                method.prepare(model, tokenizer, [options.layer])  # once a model, not once an edit
                begin = time.process_time()
                targets = method.optimize_targets(model, tokenizer, chunk, [options.layer])
                deltas = method.write(model, tokenizer, targets.each(), [options.layer])
                seconds = (time.process_time() - begin) / len(chunk)
                results = evaluator(deltas)
                columns = [mean_scores(results, score, "token")[:, 1] for score in MEASURES[:-1]]
                values = torch.stack([*columns, targets.loss.double().cpu()], 1).tolist()
                records[name, start] = {"search": name, "start": start, "seconds": seconds, "values": values}
                file.write(json.dumps(records[name, start]) + "\n")
                file.flush()
    show(records, options.searches)


def read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What an earlier run has found, by search and number of the first fact."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    return {(one["search"], one["start"]): one for one in found}


def show(records: dict[tuple[str, int], dict[str, Any]], searches: list[str]) -> None:
    """The table of the facts that all searches have edited."""
    starts = sorted(set.intersection(*({start for name, start in records if name == one} for one in searches)))
    values = {
        name: torch.tensor([row for start in starts for row in records[name, start]["values"]]) for name in searches
    }
    seconds = {name: sum(records[name, start]["seconds"] for start in starts) / len(starts) for name in searches}
    first = searches[0]
    table = Table(title=f"{len(values[first])} facts; means, and paired differences to {first!r} with 95% intervals")
    for heading in ("search", "CPU s an edit", "times as quick", *MEASURES):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for name in searches:
        difference = values[name] - values[first]
        low, high = percentile_interval(resampled_means(difference))
        cells = [f"{mean:.3f}" for mean in values[name].nanmean(0).tolist()]
        if name != first:
            parts = zip(cells, difference.nanmean(0).tolist(), low.tolist(), high.tolist(), strict=True)
            cells = [f"{cell}\n{mean:+.3f} ({a:+.3f} to {b:+.3f})" for cell, mean, a, b in parts]
        table.add_row(name, f"{seconds[name]:.2f}", f"{seconds[first] / seconds[name]:.2f}", *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
