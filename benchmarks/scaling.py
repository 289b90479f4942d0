"""The tables of docs/scaling.md: what requests take on large models, and how far predictions are from what is measured here.

    python benchmarks/scaling.py plan                # 7B, 70B, 405B and a mixture of a trillion weights, by strategy
    python benchmarks/scaling.py check --rounds 3    # random models up to 135M weights, measured on this CPU in CPU seconds

A prediction is FLOPs over the rate of matrix products, plus bytes over the memory's bandwidth, plus bytes over the link's: nothing is taken to
overlap. The formulas are those of benchmarks/costs.py.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from costs import (
    Rows,
    Shape,
    activation_bytes,
    edit_flops,
    exchange_bytes,
    forecast_flops,
    gather_bytes,
    hand_over_bytes,
    pass_flops,
    read_bytes,
    reduce_bytes,
    search_bytes,
    stream_bytes,
    weight_bytes,
)
from gpu import MODELS, bare
from random_models import RandomModel, random_requests, rows_of_search, word_tokenizer
from rich.console import Console

from lga_lightning.editing import RROME
from lga_lightning.locators.first_order import encode_rows, forecast_rows

CONTEXTS, CONTEXT_TOKENS, STEPS = 21, 10, 25
"""Of R-ROME, by default."""
STRATEGIES = ("copies", "sharded", "split", "gathered", "by blocks")
DEPTH = 0.18
"""Share of the blocks that are below an edit, as ROME's paper places it."""
LARGE = {
    "LLaMA-2-7B": MODELS["llama-2-7b"][0].shape,
    "70B": Shape(80, 8192, 64, 8, 128, 28672, 128256),
    "405B": Shape(126, 16384, 128, 8, 128, 53248, 128256),
    "1T, 9 of 385 experts": Shape(61, 7168, 64, 8, 128, 2048, 163840, experts=385, active=9),
}
SMALL = {
    "0.2M": Shape(4, 64, 4, 2, 16, 160, 512),
    "6M": Shape(8, 192, 6, 3, 32, 512, 4096, tied=True),
    "30M": Shape(12, 384, 6, 3, 64, 1024, 16384, tied=True),
    "135M": Shape(30, 576, 9, 3, 64, 1536, 49152, tied=True),  # SmolLM2's
}


@dataclass(frozen=True)
class Machine:
    """A device, and what lies between it and others of its kind.

    Attributes:
        rate: FLOPs a second that matrix products reach.
        bandwidth: Bytes a second of its memory.
        link: Bytes a second to a device of the same machine.
        network: The same to one of another machine.
        memory: Bytes that weights and activations may take.
        together: Devices of one machine.
    """

    rate: float
    bandwidth: float
    link: float = math.inf
    network: float = math.inf
    memory: float = math.inf
    together: int = 8

    def seconds(self, flops: float, moved: float, sent: float = 0.0, devices: int = 1) -> float:
        """Predicted seconds of one device's work.

        Args:
            flops: Its FLOPs.
            moved: Bytes that it reads from and writes to its memory.
            sent: Bytes that it receives from others.
            devices: Number of devices.
        """
        return (
            flops / self.rate
            + moved / self.bandwidth
            + sent / (self.link if devices <= self.together else self.network)
        )


H100 = Machine(400e12, 2.7e12, 300e9, 40e9, 72e9)
"""A GPU of 80 GB at what is mostly reached of its data sheet: 40% of 989 TFLOP/s, 80% of 3.35 TB/s, two thirds of 450 GB/s."""


@dataclass(frozen=True)
class Cost:
    """What one batch takes on each device.

    Attributes:
        devices: Number of devices.
        batch: Requests of a batch.
        memory: Bytes of weights and activations on each.
        forecast: Seconds a request of the forecast.
        edit: Seconds a request of an edit.
    """

    devices: int
    batch: int
    memory: float
    forecast: float
    edit: float


def costs(shape: Shape, batch: int, machine: Machine, strategy: str, devices: int) -> Cost:
    """What a batch of requests of 4 rows takes.

    Args:
        shape: The model's shape.
        batch: Requests of a batch.
        machine: The devices.
        strategy: ``copies`` of the model; ``sharded`` weights that are gathered for each pass, a batch a device; ``split`` matrices,
            a batch for all, or with all of their outputs ``gathered`` at once; ``by blocks``, a batch for all, one device at a time.
        devices: Number D of devices.
    """
    rows = Rows(4 * batch, 10, 2)
    answers, subjects = rows_of_search(batch, CONTEXTS, CONTEXT_TOKENS)
    layer = round(DEPTH * shape.depth)
    evaluations, above = STEPS - 1, (shape.depth - layer) / shape.depth
    tokens, searched = rows.count * rows.tokens, answers.count * answers.tokens + subjects.count * subjects.tokens
    prefix = answers.count * answers.before + subjects.count * subjects.before
    forecast, edit = forecast_flops(shape, rows, batch), edit_flops(shape, answers, subjects, layer, evaluations)
    passes = 2 + 2 * evaluations * above  # over the weights: beginning, first pass, and both ways in each evaluation
    weights, kept = weight_bytes(shape), activation_bytes(shape, rows)
    stream = max(stream_bytes(shape, rows), stream_bytes(replace(shape, depth=shape.depth - layer), answers))
    held = max(kept, search_bytes(shape, answers, layer))
    read, read_in_search = 2 * read_bytes(shape, tokens) + 2 * kept, passes * read_bytes(shape, searched)
    sent: tuple[float, float] = (0.0, 0.0)
    alone = strategy in ("copies", "sharded")  # every device has requests of its own
    if strategy == "sharded":
        sent = (gather_bytes(shape, devices), gather_bytes(shape, devices, 1) * passes)
    elif strategy == "split":
        both_ways = reduce_bytes(shape, searched, devices) * evaluations * above
        sent = (reduce_bytes(shape, tokens, devices), both_ways + reduce_bytes(shape, prefix + searched, devices) / 2)
    elif strategy == "gathered":
        both_ways = exchange_bytes(shape, searched, devices) * evaluations * above
        once = exchange_bytes(shape, prefix + searched, devices, both_ways=False)
        sent = (exchange_bytes(shape, tokens, devices), both_ways + once)
    elif strategy == "by blocks":
        over = hand_over_bytes(shape, searched, devices) * evaluations * above
        sent = (hand_over_bytes(shape, tokens, devices), over + hand_over_bytes(shape, prefix + searched, devices) / 2)
    each = devices if strategy in ("split", "gathered") else 1
    requests = batch * devices if alone else batch
    memory = {
        "copies": weights + held,
        "sharded": weights / devices
        + held
        + (weights / shape.depth if devices > 1 else 0),  # a block at a time is whole
        "split": weights / devices + stream + (held - stream) / devices,
        "gathered": weights / devices + held,
        "by blocks": (weights + held) / devices,
    }
    return Cost(
        devices,
        batch,
        memory[strategy],
        machine.seconds(forecast / each, read / each, sent[0], devices) / requests,
        machine.seconds(edit / each, read_in_search / each, sent[1], devices) / requests,
    )


def smallest_plan(shape: Shape, machine: Machine, strategy: str, batches: Sequence[int] = (32, 16, 8)) -> Cost | None:
    """The fewest devices (a power of two, up to 1,024) that hold a batch, with the largest batch that they hold; or None.

    Args:
        shape: The model's shape.
        machine: The devices.
        strategy: See :func:`costs`.
        batches: Numbers of requests, the largest first.
    """
    tried = (costs(shape, batch, machine, strategy, 2**i) for i in range(11) for batch in batches)
    return next((cost for cost in tried if cost.memory <= machine.memory), None)


def plan() -> list[str]:
    """The table of large models."""
    lines = [
        "| model | weights, GB | strategy | GPUs | batch | GB on each | forecast, ms a request | edit, s a request |"
    ]
    lines.append("|---|--:|---|--:|--:|--:|--:|--:|")
    for name, shape in LARGE.items():
        for strategy in STRATEGIES:
            if strategy == "gathered" and shape.experts > 1:
                continue  # experts are not split so
            cost = smallest_plan(shape, H100, strategy)
            if cost is None:
                cells = ["does not fit", "-", "-", "-", "-"]
            elif cost.devices == 1 and strategy != "copies":
                continue  # the same as copies
            else:
                cells = [str(cost.devices), str(cost.batch), f"{cost.memory / 1e9:.0f}"]
                cells += [f"{1000 * cost.forecast:.1f}", f"{cost.edit:.2f}"]
            lines.append(f"| {' | '.join([name, f'{weight_bytes(shape) / 1e9:,.0f}', strategy, *cells])} |")
    return lines


def cpu_seconds(call: Callable[[], object], rounds: int) -> float:
    """CPU seconds of a call: the least of some rounds, after one that does not count."""
    call()
    found = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def this_cpu() -> Machine:
    """This CPU on one thread: a matrix product as tall as a batch, and a copy of what no cache holds."""
    a, b, large = torch.randn(320, 1024), torch.randn(1024, 1024), torch.randn(2**24)
    rate = 2 * 320 * 1024 * 1024 / cpu_seconds(lambda: a @ b, 10)
    return Machine(rate, 2 * large.nbytes / cpu_seconds(large.clone, 5))


def check(batch: int, rounds: int) -> list[str]:
    """The table of predictions against CPU seconds."""
    torch.set_num_threads(1)
    machine = this_cpu()
    lines = [
        f"One thread: {machine.rate / 1e9:.0f} GFLOP/s in matrix products, {machine.bandwidth / 1e9:.1f} GB/s.",
        "",
    ]
    lines += [
        "| weights | what | GFLOP | predicted, s | measured, CPU s | measured / predicted |",
        "|---|---|--:|--:|--:|--:|",
    ]
    ratios = []
    for name, shape in SMALL.items():
        model = RandomModel("llama", shape).make("cpu", torch.float32)
        tokenizer, requests = word_tokenizer(shape.vocabulary), random_requests(batch, shape.vocabulary)
        encoded = encode_rows(tokenizer, requests, [[] for _ in requests])
        rows = Rows(len(encoded.batch), encoded.batch.input_ids.shape[1], encoded.batch.positions.shape[1])
        layer, steps = round(DEPTH * shape.depth), 4
        editor = RROME(second_moment="identity", context_lengths=(10,), contexts_each=2, steps=steps, stop_loss=0.0)
        editor.prepare(model, tokenizer, [layer])
        search = rows_of_search(batch, 3, 10)
        searched = search[0].count * search[0].tokens
        passes = 2 + 2 * (steps - 1) * (1 - layer / shape.depth)
        both = 2 * read_bytes(shape, rows.count * rows.tokens, 4) + 2 * activation_bytes(shape, rows, 4)
        parts: list[tuple[str, float, float, Callable[[], object]]] = [
            ("bare pass", pass_flops(shape, rows), both, lambda m=model, e=encoded: bare(m, e)),  # type: ignore[misc]
            (
                "forecast",
                forecast_flops(shape, rows, batch),
                both,
                lambda m=model, e=encoded, by=editor: forecast_rows(m, by, e, batch),  # type: ignore[misc]
            ),
            (
                "edit",
                edit_flops(shape, *search, layer, steps - 1),
                passes * read_bytes(shape, searched, 4),
                lambda m=model, t=tokenizer, r=requests, by=editor, at=layer: by.optimize_targets(m, t, r, [at]),  # type: ignore[misc]
            ),
        ]
        for what, flops, moved, run in parts:
            predicted, measured = machine.seconds(flops, moved), cpu_seconds(run, rounds)
            ratios.append(measured / predicted)
            cells = [name, what, f"{flops / 1e9:.2f}", f"{predicted:.3f}", f"{measured:.3f}", f"{ratios[-1]:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"Median of the last column: {statistics.median(ratios):.2f}."]


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", choices=["plan", "check"])
    parser.add_argument("--batch-size", type=int, default=8, help="requests of the check")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    lines = plan() if args.table == "plan" else check(args.batch_size, args.rounds)
    Console(width=300).print("\n".join(lines), markup=False, highlight=False)


if __name__ == "__main__":
    main()
