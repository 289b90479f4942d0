"""What the attribution costs: ours, per-request autograd that materialises gradients, and a pass without any hook.

    python benchmarks/attribution.py [--model smollm2-135m] [--requests 32] [--batch-size 8] [--rounds 5]

All three see the same requests. Contenders alternate; the table shows the median of the rounds and the median of the
ratios within a round, so that a machine whose speed drifts does not favour one of them. Peak memory is what a fresh
process needs on top of the loaded model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable

import psutil
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from lga_lightning.data import load_requests
from lga_lightning.locators.gradients import encode_pairs, gradient_grams
from lga_lightning.locators.selection import golden_layers
from lga_lightning.models.architecture import scored_sites
from lga_lightning.models.encoding import EncodedAnswers
from lga_lightning.models.hooks import logits_at
from lga_lightning.models.likelihood import answer_nll
from lga_lightning.models.loading import load_model

Contender = Callable[[PreTrainedModel, list[EncodedAnswers]], Tensor]


def autograd(model: PreTrainedModel, batches: list[EncodedAnswers]) -> Tensor:
    """One request at a time, both gradients of all MLP matrices materialised: the definition. [N, L]."""
    sites = scored_sites(model, "mlp")
    weights = [[site.module.get_parameter("weight").requires_grad_(True) for site in block] for block in sites]
    scores = []
    for batch in batches:
        for row in range(0, len(batch), 2):
            grads = []
            for answer in (row, row + 1):
                length = int((batch.labels[answer] >= 0).sum())
                end = int(batch.positions[answer, length - 1]) + 2
                ids = batch.input_ids[answer : answer + 1, :end]
                logits = model(input_ids=ids, use_cache=False).logits[0, end - 1 - length : end - 1]
                loss = torch.nn.functional.cross_entropy(logits, batch.labels[answer, :length])
                grads.append(torch.autograd.grad(loss, [w for block in weights for w in block]))
            products = iter([(old * new).sum() for old, new in zip(*grads, strict=True)])
            scores.append(torch.stack([sum((next(products) for _ in block), torch.tensor(0.0)) for block in weights]))
    model.requires_grad_(False)
    return torch.stack(scores)


def ours(model: PreTrainedModel, batches: list[EncodedAnswers]) -> Tensor:
    """Gram products within one backward pass a batch. [N, L]."""
    return torch.cat([gradient_grams(model, batch, "mlp")[0][..., 0, 1] for batch in batches])


def bare(model: PreTrainedModel, batches: list[EncodedAnswers]) -> Tensor:
    """Forward and backward to the embeddings of the same batches: no hook on a block, no product."""
    for batch in batches:
        embedded = model.get_input_embeddings()(batch.input_ids).requires_grad_()
        with logits_at(model, batch.positions):
            logits = model(inputs_embeds=embedded, use_cache=False).logits.float()
        torch.autograd.grad(answer_nll(logits, batch.labels).sum(), embedded)
    return torch.empty(0)


CONTENDERS: dict[str, Contender] = {"autograd, request by request": autograd, "ours": ours, "bare pass": bare}


def prepare(args: argparse.Namespace) -> tuple[PreTrainedModel, list[EncodedAnswers]]:
    """The model on its device, and the requests in batches of similar length."""
    model, tokenizer = load_model(args.model, args.dtype)
    model.to(args.device)
    requests = sorted(load_requests(args.data, limit=args.requests).requests, key=lambda request: len(request.prompt))
    pairs = (requests[i : i + args.batch_size] for i in range(0, len(requests), args.batch_size))
    return model, [encode_pairs(tokenizer, batch).to(args.device) for batch in pairs]


def seconds(run: Callable[[], Tensor], device: str) -> float:
    """Wall-clock time of one run."""
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(name: str, args: argparse.Namespace) -> float:
    """Megabytes that one run needs on top of the loaded model; call it in a fresh process."""
    model, batches = prepare(args)
    run = CONTENDERS[name]
    if args.device.startswith("cuda"):
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(model, batches)
        return (torch.cuda.max_memory_allocated() - start) / 1e6
    process, done, seen = psutil.Process(), threading.Event(), []
    for parameter in model.parameters():  # weights are mapped from the file: touch them, so that they count as loaded
        parameter.sum()
    start = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    run(model, batches)
    done.set()
    thread.join()
    return float(max(seen) - start) / 1e6


def main() -> None:
    """Time the contenders in turn, then measure the memory of each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default=None, help="a JSONL file of requests; the bundled facts by default")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    model, batches = prepare(args)
    reference, scores = autograd(model, batches), ours(model, batches)  # also the warm-up
    bare(model, batches)
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in track(range(args.rounds), description="Rounds"):
        for name, run in CONTENDERS.items():
            times[name].append(seconds(lambda run=run: run(model, batches), args.device))  # type: ignore[misc]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(peak_memory, (name, args)) for name in CONTENDERS}

    shapes = ", ".join("x".join(map(str, batch.input_ids.shape)) for batch in batches)
    table = Table(
        title=f"{args.model}, {args.dtype}, {args.device}, {args.requests} requests in batches of {shapes} tokens"
    )
    for heading in ("", "seconds", "autograd is slower by", "over the bare pass", "peak MB"):
        table.add_column(heading, justify="right")
    for name in CONTENDERS:
        slower = statistics.median(
            a / b for a, b in zip(times["autograd, request by request"], times[name], strict=True)
        )
        over = statistics.median(a / b for a, b in zip(times[name], times["bare pass"], strict=True))
        table.add_row(
            name, f"{statistics.median(times[name]):.2f}", f"{slower:.1f}x", f"{over:.3f}x", f"{memory[name]:.0f}"
        )
    console = Console()
    console.print(table)
    error = ((scores - reference).abs().amax(1) / reference.abs().amax(1)).max().item()
    console.print(f"Largest difference of a score, relative to its request's largest: {error:.1e}")
    console.print(f"Same layer: {golden_layers(scores.sum(0)).item() == golden_layers(reference.sum(0)).item()}")


if __name__ == "__main__":
    main()
