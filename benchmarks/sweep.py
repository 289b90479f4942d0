"""What a layer sweep costs: ours, edit-score-restore one by one, and what gradients and causal tracing save.

    python benchmarks/sweep.py [--model smollm2-135m] [--requests 8] [--sample 8] [--layers 3]

One by one is what people do today: for each request and layer the plain edit of ``benchmarks/editing.py``, its prompts run
one at a time before and after, the weights restored. It is timed on a sample of requests at a sample of layers, evenly spread, in
turn with our sweep of all requests at all layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from editing import one_at_a_time
from rich.console import Console
from rich.table import Table

from lga_lightning import RROME, CausalTracing, LayerSweep, ValueGradient, load_model, load_requests
from lga_lightning.models.architecture import blocks


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default=None, help="the bundled facts by default")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--sample", type=int, default=8, help="requests a round that are edited one by one")
    parser.add_argument("--layers", type=int, default=3, help="layers at which they are")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--contexts", type=int, default=2, help="sampled texts of 10 tokens")
    parser.add_argument("--window", type=int, default=10, help="of causal tracing")
    options = parser.parse_args()
    console = Console()
    model, tokenizer = load_model(options.model)
    requests = load_requests(options.data, split="proxy", limit=options.requests).requests
    depth = len(blocks(model))
    layers = sorted({round(i * (depth - 1) / max(1, options.layers - 1)) for i in range(options.layers)})
    editor = RROME(steps=options.steps, context_lengths=(10,), contexts_each=options.contexts, second_moment="identity")
    editor.prepare(model, tokenizer, range(depth))
    tracing, gradient = CausalTracing(window=options.window), ValueGradient()
    gradient.score(model, tokenizer, requests[:2])
    costs: dict[str, list[float]] = {}

    def note(name: str, count: float, call: Callable[[], object]) -> None:
        """Seconds for one request at all layers."""
        costs.setdefault(name, []).append(timed(call) / count)
        console.print(f"{name}: {costs[name][-1]:.3f} s a request", style="dim")

    for number in range(options.rounds):
        sample = [requests[(number * options.sample + i) % len(requests)] for i in range(options.sample)]
        pairs = [(request, layer) for request in sample for layer in layers]

        def one_by_one(pairs: list = pairs) -> None:
            for request, layer in pairs:
                one_at_a_time(editor, model, tokenizer, request, layer)

        note("edit, score, restore, one by one", len(pairs) / depth, one_by_one)
        note("our sweep", len(requests), lambda: LayerSweep(editor).score(model, tokenizer, requests))
        note("CausalTracing", len(requests), lambda: tracing.score(model, tokenizer, requests))
        for _ in range(3):
            note("ValueGradient", len(requests), lambda: gradient.score(model, tokenizer, requests))
    table = Table(
        title=f"{options.model}, float32, {model.device.type}, {torch.get_num_threads()} threads: {len(requests)} requests at "
        f"{depth} layers, {options.contexts + 1} contexts, {options.steps} steps; one by one: {options.sample} requests a round at "
        f"layers {', '.join(map(str, layers))}"
    )
    for heading in ("", "seconds a request", "times faster than one by one", "than our sweep"):
        table.add_column(heading, justify="right" if heading else "left")
    medians = {name: statistics.median(values) for name, values in costs.items()}
    plain, sweep = medians["edit, score, restore, one by one"], medians["our sweep"]
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds:.3f}", f"{plain / seconds:,.1f}x", f"{sweep / seconds:,.1f}x")
    console.print(table)


if __name__ == "__main__":
    main()
