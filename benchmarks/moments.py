"""Where C comes from: what it costs before the first edit, and what edits harm with it.

Target values are found once a fact; the edits are then written with each C and scored, so that C is all that differs. C of a source is
estimated anew, for the edited layer alone.

    python benchmarks/moments.py [--model smollm2-135m] [--layer 3] [--method RROME] [--facts 24]
        [--sources bundled=10000 sampled=10000 identity]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lga_lightning import editing, load_model, load_requests
from lga_lightning.covariance.solver import IDENTITY, CovarianceSolver
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.metrics.intervals import percentile_interval, resampled_means

SCORES = ("rewrite", "rephrase", "locality")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--method", choices=("RROME", "ROME", "MEMIT", "EMMET", "AlphaEdit"), default="RROME")
    parser.add_argument("--data", default=None, help="the bundled facts by default")
    parser.add_argument("--facts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--contexts", type=int, default=0, help="sampled texts of each length")
    parser.add_argument("--sources", nargs="+", default=["bundled=10000", "sampled=10000", "identity"])
    options = parser.parse_args()
    model, tokenizer = load_model(options.model)  # before the cache is another one
    facts = load_requests(options.data, split="test" if options.data is None else None, limit=options.facts).requests
    facts = [replace(fact, portability={}) for fact in facts]
    method = getattr(editing, options.method)(steps=options.steps, contexts_each=options.contexts)
    method.covariance = CovarianceSolver(IDENTITY)  # a search needs none
    targets = method.optimize_targets(model, tokenizer, facts, [options.layer])
    evaluator = Evaluator(model, tokenizer, facts, EvaluationConfig(generate=False))
    console = Console(width=120)
    table = Table(title=f"{options.model}, layer {options.layer}, {options.method}, {len(facts)} facts, 1 thread")
    for heading in ("C from", "tokens", "CPU seconds before the first edit", *SCORES):
        table.add_column(heading, justify="left" if heading == "C from" else "right")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for source in options.sources:
            name, _, tokens = source.partition("=")
            method.covariance = CovarianceSolver(name, int(tokens) if tokens else None)
            start = time.process_time()
            method.covariance.prepare(model, tokenizer, [options.layer])
            seconds = time.process_time() - start
            results = evaluator(method.write(model, tokenizer, targets.each(), [options.layer]))
            cells = []
            for score in SCORES:
                values = mean_scores(results, score, "token")[:, 1:]
                low, high = percentile_interval(resampled_means(values)).flatten().tolist()
                cells.append(f"{values.nanmean():.3f} ({low:.3f}-{high:.3f})")
            table.add_row(Path(name).name, tokens, f"{seconds:.1f}", *cells)
            console.print(Path(name).name, tokens, f"{seconds:.1f}", *cells)
    console.print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
