"""What a forecast costs: over a pass of the same rows without any hook.

    python benchmarks/forecast_cost.py [--model smollm2-135m] [--requests 32] [--rounds 5]

Contenders alternate; the figure is the median of the ratios within a round. The editor is R-ROME with C = I.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from rich.console import Console
from sweep import timed

from lga_lightning import RROME, load_model, load_requests
from lga_lightning.locators.first_order import encode_rows, forecast_rows
from lga_lightning.models.hooks import logits_at
from lga_lightning.models.likelihood import answer_nll


def main() -> None:
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--data", default=None, help="the bundled facts by default")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model, tokenizer = load_model(args.model, args.dtype)
    requests = sorted(load_requests(args.data, limit=args.requests).requests, key=lambda one: len(one.prompt))
    parts = [requests[start : start + 8] for start in range(0, len(requests), 8)]
    batches = [(encode_rows(tokenizer, part, [[] for _ in part]), len(part)) for part in parts]
    editor = RROME(second_moment="identity")

    def forecast() -> None:
        for rows, count in batches:
            forecast_rows(model, editor, rows, count)

    def bare() -> None:
        for rows, _ in batches:
            embedded = model.get_input_embeddings()(rows.batch.input_ids).requires_grad_()
            with logits_at(model, rows.batch.positions):
                logits = model(inputs_embeds=embedded, use_cache=False).logits.float()
            torch.autograd.grad(answer_nll(logits, rows.batch.labels).sum(), embedded)

    for contender in (forecast, bare):  # the warm-up
        contender()
    pairs = [(timed(forecast), timed(bare)) for _ in range(args.rounds)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    rows = sum(len(rows.batch) for rows, _ in batches)
    Console().print(
        f"{args.model}, {args.dtype}: {len(requests)} requests, {rows} rows. Forecast of all layers {ours:.2f} s, bare pass "
        f"{theirs:.2f} s: {ratio:.2f} times."
    )


if __name__ == "__main__":
    main()
