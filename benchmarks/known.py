"""Keep the requests of a data set whose old answer a model gives by itself, as JSON Lines for ``--data.requests``.

    python benchmarks/known.py --data counterfact-edit.json --output known.jsonl [--model smollm2-135m]

The answer is the old one if each of its tokens is the most likely one after those before it. A small model knows no answer of
some data sets: with ``--own`` all requests are kept without their old answers, so that the model's own answers take their place.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from lga_lightning import load_model, load_requests
from lga_lightning.data.batching import RequestBatches
from lga_lightning.data.requests import EditRequest
from lga_lightning.locators.base import knows_old_answer
from lga_lightning.utils.io import write_text


def as_row(request: EditRequest) -> dict:
    """A request in our format, less what it does not have."""
    return {name: content for name, content in asdict(request).items() if content}


def keep(path: Path, requests: list[EditRequest]) -> None:
    """Write requests as JSON Lines."""
    write_text(path, "".join(json.dumps(as_row(request), ensure_ascii=False) + "\n" for request in requests))


def main() -> None:
    """Ask about every request, and write down those that are known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--own", action="store_true", help="keep all requests, less their old answers")
    args = parser.parse_args()
    if args.own:
        keep(args.output, [replace(request, target_old=None) for request in load_requests(args.data).requests])
        return
    model, tokenizer = load_model(args.model)
    model.to(args.device)
    requests = [r for r in load_requests(args.data).requests if r.target_old is not None]
    known = set()
    for batch in track(list(RequestBatches(requests, args.batch_size)), description="Asking"):
        answers = knows_old_answer(model, tokenizer, batch.requests).tolist()
        known |= {index for index, knows in zip(batch.index, answers, strict=True) if knows}
    keep(args.output, [requests[index] for index in sorted(known)])
    Console().print(f"{len(known)} of {len(requests)} facts are known: {args.output}")


if __name__ == "__main__":
    main()
