"""What weights in 8 and 4 bits do to the choice of a layer: golden layers, and rank correlations of scores with those in float32.

    python benchmarks/quantization.py [--model smollm2-135m] [--requests 16] [--kinds int8 int4]

The forecast is of R-ROME edits with C = I. Rank correlations are Spearman's, of the layers' scores.
"""

from __future__ import annotations

import argparse
import time

import torch
from forecast_page import rank_correlation
from rich.console import Console
from rich.table import Table

from lga_lightning import LGA, RROME, EditForecast, find_golden_layer, load_model, load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.models.packed import stored
from lga_lightning.results.attribution import LocatorResult

FULL = "float32"


def found_with(name: str, kind: str, requests: list[EditRequest], batch_size: int) -> tuple[list[LocatorResult], float]:
    """What two locators find, and the megabytes that the weights take.

    Args:
        name: Name of the model.
        kind: What its linear maps are kept in.
        requests: The requests.
        batch_size: Requests that are scored at once.
    """
    model, tokenizer = load_model(name, quantization=None if kind == FULL else kind)
    megabytes = sum(part.nbytes for parameter in model.parameters() for part in stored(parameter)) / 1e6
    editor = RROME(second_moment="identity")
    found = [
        find_golden_layer(model, tokenizer, requests, locator, batch_size, editor=editor)
        for locator in (EditForecast(), LGA())
    ]
    return found, megabytes


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default=None, help="the bundled facts by default")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", default=["int8", "int4"])
    options = parser.parse_args()
    console = Console()
    requests = load_requests(options.data, split="proxy", limit=options.requests).requests
    table = Table(title=f"{options.model}, {len(requests)} requests, {torch.get_num_threads()} threads")
    for heading in ("weights", "MB", "locator", "golden", "place of float32's", "rank correlation", "seconds"):
        table.add_column(heading, justify="left" if heading in ("weights", "locator") else "right")
    full: list[LocatorResult] = []
    for kind in (FULL, *options.kinds):
        start = time.perf_counter()
        results, megabytes = found_with(options.model, kind, requests, options.batch_size)
        seconds = time.perf_counter() - start
        full = full or results
        for result, wanted in zip(results, full, strict=True):
            scores, before = (torch.tensor(one.choice.scores) for one in (result, wanted))
            table.add_row(
                kind,
                f"{megabytes:.0f}",
                result.locator,
                str(result.golden_layer),
                str(1 + int((scores > scores[wanted.golden_layer]).sum())),
                f"{rank_correlation(scores, before):.3f}",
                f"{seconds:.0f}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
