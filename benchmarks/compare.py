"""Where to edit, by each locator, judged by a sweep over other requests.

    python benchmarks/compare.py --model MODEL --data FACTS.jsonl --cache runs/compare [--proxies 100] [--tests 50]

Every locator scores the proxy split; the layer sweep also edits the test split at every layer. Prints each locator's
layer and how it stands on the test requests, what it took, and the expected regret with 5, 10, 20, ... proxies for
LGA's scores under every aggregate. Evidence is kept in ``--cache``, batch by batch, so that a run can go on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lga_lightning import LGA, RROME, CausalTracing, EditRequest, LayerSweep, MiddleLayer, load_model, load_requests
from lga_lightning.aggregation import AGGREGATES
from lga_lightning.comparison import expected_regret, standing
from lga_lightning.data.batches import RequestBatches
from lga_lightning.locators import LayerLocator
from lga_lightning.module import score_requests


def evidence(
    name: str,
    locator: LayerLocator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    args: argparse.Namespace,
) -> tuple[Tensor, float]:
    """A locator's scores of the requests that count, [N, L], and the seconds it took."""
    folder: Path = args.cache / name
    folder.mkdir(parents=True, exist_ok=True)
    scores, seconds = [], 0.0
    start = time.perf_counter()
    locator.prepare(model, tokenizer, requests)
    seconds += time.perf_counter() - start
    for number, batch in enumerate(track(list(RequestBatches(requests, args.batch_size)), description=name)):
        path = folder / f"{number}.pt"
        if path.exists():
            rows: dict[str, Any] = torch.load(path)
        else:
            start = time.perf_counter()
            rows = {**score_requests(locator, model, tokenizer, batch, only_known=True)}
            rows["seconds"] = torch.tensor(time.perf_counter() - start)
            torch.save(rows, path)
        scores.append(rows["values"][rows["status"] == 0, 0].float().cpu())
        seconds += float(rows["seconds"])
    return torch.cat(scores), seconds


def main() -> None:
    """Score, sweep, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default=None, help="a JSONL file with both splits; the bundled facts by default")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--proxies", type=int, default=100)
    parser.add_argument("--tests", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25, help="of the editor's search for the target value")
    parser.add_argument("--contexts", type=int, default=10, help="texts of each of two lengths that the editor samples")
    parser.add_argument("--window", type=int, default=10, help="of causal tracing")
    parser.add_argument("--without", nargs="*", default=[], help="locators to leave out")
    args = parser.parse_args()

    model, tokenizer = load_model(args.model)
    model.to(args.device)
    proxies = load_requests(args.data, limit=args.proxies, split="proxy").requests
    tests = load_requests(args.data, limit=args.tests, split="test").requests
    editor = RROME(steps=args.steps, contexts_each=args.contexts)
    truth, sweep_seconds = evidence("test-sweep", LayerSweep(editor), model, tokenizer, tests, args)
    per_request = sweep_seconds / len(tests)

    scopes = {f"LGA {scope}": LGA(scope) for scope in ("mlp", "mlp_out")}  # type: ignore[arg-type]
    locators: dict[str, LayerLocator] = {
        **scopes,
        "LGA mlp per new norm": LGA("mlp", measure="dot_per_new_norm"),
        "CausalTracing": CausalTracing(window=args.window),
        "LayerSweep": LayerSweep(editor),
        "MiddleLayer": MiddleLayer(),
    }
    table = Table(title=f"{args.model}: layers chosen on {len(proxies)} proxies, judged on {len(truth)} test requests")
    for heading in ("locator", "layer", "score", "regret", "gap", "hit@1/3/5", "seconds", "speed-up"):
        table.add_column(heading, justify="left" if heading == "locator" else "right")
    curves = Table(title="Expected regret in points, by number of proxies")
    sizes = [n for n in (5, 10, 20, 50, 100, 200, 500) if n <= len(proxies)]
    for heading in ("locator", *map(str, sizes)):
        curves.add_column(heading, justify="left" if heading == "locator" else "right")
    for name, locator in locators.items():
        if name in args.without:
            continue
        scores, seconds = evidence(name.replace(" ", "-"), locator, model, tokenizer, proxies, args)
        for aggregate in AGGREGATES[:-1] if isinstance(locator, LGA) else (locator.aggregate,):
            locator.aggregate = aggregate  # type: ignore[assignment]
            label = f"{name}, {aggregate}" if isinstance(locator, LGA) else name
            found = standing(truth, locator.choose(scores).golden_layer)
            numbers = zip(
                (found.score, found.regret, found.gap),
                (found.score_interval, found.regret_interval, found.gap_interval),
                strict=True,
            )
            table.add_row(
                label,
                str(found.layer),
                *(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, (low, high) in numbers),
                "/".join("yes" if found.hit(k) else "no" for k in (1, 3, 5)),
                f"{seconds:.1f}",
                f"{per_request * len(proxies) / max(seconds, 1e-9):.0f}x",
            )
            drawn = [n for n in sizes if n <= len(scores)]
            curves.add_row(label, *(f"{expected_regret(locator, scores, truth, n):.1f}" for n in drawn))
    console = Console(width=150)
    means = 100 * truth.double().mean(0)
    console.print("Sweep on the test requests, by layer:", " ".join(f"{value:.1f}" for value in means.tolist()))
    console.print(table)
    console.print(curves)


if __name__ == "__main__":
    main()
