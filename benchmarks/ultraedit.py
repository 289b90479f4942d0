"""Edits a second, without scoring: UltraEdit against R-ROME, in turn, and a long session of UltraEdit.

R-ROME edits a batch of requests each by itself, which is how it is used; UltraEdit edits groups one after the other, with
all earlier edits in place. What both keep by model (context texts, C = I, the warm-up's statistics) is found before the clock runs. The median
of the rounds' ratios is what counts: both run on the same machine, one directly after the other.

    python benchmarks/ultraedit.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lga_lightning import RROME, EditRequest, EditSession, UltraEdit, load_model, load_requests


def distinct(requests: Sequence[EditRequest], count: int) -> list[EditRequest]:
    """So many requests of different prompts: facts that are repeated get a running number in front."""
    rounds = -(-count // len(requests))
    return [
        replace(request, prompt=f"Entry {number}. {request.prompt}", id=f"{number}/{request.id}")
        for number in range(rounds)
        for request in requests
    ][:count]


def session(
    method: UltraEdit,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    layer: int,
    group: int,
) -> EditSession:
    """Groups of requests, one after the other."""
    run = EditSession(method, model, tokenizer, layer)
    for start in range(0, len(requests), group):
        run.edit(requests[start : start + group], group)
    return run


def seconds(call: Callable[[], object], count: int) -> float:
    """Seconds an edit."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description="Edits a second: UltraEdit against R-ROME.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--layer", type=int, default=25, help="block that UltraEdit edits")
    parser.add_argument("--rome-layer", type=int, default=5, help="block that R-ROME edits")
    parser.add_argument("--requests", type=int, default=100, help="edits of UltraEdit a round")
    parser.add_argument("--group", type=int, default=100, help="requests that UltraEdit edits at once")
    parser.add_argument("--sample", type=int, default=8, help="edits of R-ROME a round, all in one batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", type=int, default=1000, help="edits of the long session; 0 for none")
    options = parser.parse_args()
    console = Console()
    model, tokenizer = load_model(options.model, dtype=options.dtype)
    facts = load_requests().requests
    requests, sample = distinct(facts, options.requests), facts[: options.sample]
    ultra, rome = UltraEdit(), RROME(second_moment="identity")
    ultra.prepare(model, tokenizer, [options.layer])
    rome.prepare(model, tokenizer, [options.rome_layer])
    found: dict[str, list[float]] = {"R-ROME": [], "UltraEdit": []}
    for number in range(options.rounds):
        found["R-ROME"].append(
            seconds(lambda: rome.compute_each(model, tokenizer, sample, options.rome_layer), len(sample))
        )
        found["UltraEdit"].append(
            seconds(lambda: session(ultra, model, tokenizer, requests, options.layer, options.group), len(requests))
        )
        shown = ", ".join(f"{name} {values[-1]:.4f}" for name, values in found.items())
        console.print(f"round {number + 1}, seconds an edit: {shown}", style="dim")
    table = Table(
        title=f"{options.model}, {options.dtype}, {model.device.type}, {torch.get_num_threads()} threads: groups of {options.group} "
        f"(UltraEdit), a batch of {options.sample} (R-ROME); medians of {options.rounds} rounds"
    )
    for heading in ("", "edits a second", "times as many"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, values in found.items():
        ratio = statistics.median(base / own for base, own in zip(found["R-ROME"], values, strict=True))
        table.add_row(name, f"{1 / statistics.median(values):.2f}", f"{ratio:.1f}x")
    console.print(table)
    if options.long:
        many = distinct(facts, options.long)
        total = seconds(lambda: session(ultra, model, tokenizer, many, options.layer, options.group), 1)
        console.print(f"{options.long} edits in groups of {options.group}, one after the other: {total:.1f} s")


if __name__ == "__main__":
    main()
