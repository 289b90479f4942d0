"""Join data sets to one file of facts that differ in their prompts, shuffled, for thousands of edits in a row.

python benchmarks/many.py counterfact-edit.json zsre.json --facts 10000 --output many.jsonl

With ``--in-order`` they are not shuffled: one data set follows the other.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from known import keep
from rich.console import Console

from lga_lightning import load_requests


def main() -> None:
    """Read, join, shuffle, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="data sets, as `--data.requests` takes them")
    parser.add_argument("--facts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-order", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    facts = {request.prompt: request for source in options.data for request in load_requests(source).requests}
    every, count = list(facts.values()), min(options.facts, len(facts))
    chosen = every[:count] if options.in_order else random.Random(options.seed).sample(every, count)
    keep(options.output, chosen)
    Console().print(f"{len(chosen)} of {len(facts)} facts: {options.output}")


if __name__ == "__main__":
    main()
