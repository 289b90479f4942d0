"""Edits a second, scoring included: a batch of requests against one request at a time.

One at a time is what toolkits do: for each request the rows of all contexts in whole passes with all logits, torch's Adam, the
edit written into the weights, one pass a question, the weights restored. It is timed on a sample of the requests, in turn
with ours on all of them, and also ours with one request a batch.

    python benchmarks/editing.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lga_lightning import RROME, EditRequest, WeightDelta, load_model, load_requests
from lga_lightning.data.requests import end_of_subject
from lga_lightning.editing import DenseUpdate
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.encoding import token_at


def one_at_a_time(
    method: RROME, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: EditRequest, layer: int
) -> Tensor:
    """R-ROME with C = I, plainly: the change of the weight [d_out, d_in]. The request's questions are asked of both models."""
    site, settings = edit_site(model, layer), method.search(model)
    target = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
    rows, subjects = [], []
    contexts = method.contexts.of(model, tokenizer)
    for text in [*(context + request.prompt for context in contexts), f"{request.subject} is a"]:
        encoded = tokenizer(text, return_offsets_mapping=True)
        begin = text.rindex(request.prompt) if request.prompt in text else 0
        end = begin + end_of_subject(text[begin:], request.about)
        subjects.append(token_at(encoded["offset_mapping"], end - 1))
        rows.append(encoded["input_ids"])
    lengths = [len(row) for row in rows]
    rows = [row + target for row in rows[:-1]] + [rows[-1]]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    number, where = torch.arange(len(rows)), torch.tensor(subjects)
    delta = torch.zeros(site.out_features)
    seen: dict[str, Tensor] = {}

    def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["keys"] = args[0][number, where].detach()
        seen["values"] = output[number, where].detach()
        changed = output.clone()
        changed[number, where] += delta
        return changed

    handle = site.module.register_forward_hook(hook)
    try:
        with torch.no_grad():
            original = model(ids).logits[-1, where[-1]].log_softmax(-1)
        keys, h0 = seen["keys"][:-1], seen["values"][0]
        delta.requires_grad_()
        adam = torch.optim.Adam([delta], lr=settings.learning_rate)
        for step in range(settings.steps):
            logits = model(ids).logits.log_softmax(-1)
            at = torch.arange(len(target)) - 1
            nll = torch.stack([-logits[i, length + at, target].mean() for i, length in enumerate(lengths[:-1])])
            divergence = functional.kl_div(original, logits[-1, where[-1]], log_target=True, reduction="sum")
            loss = nll.mean() + settings.kl_factor * divergence
            loss = loss + settings.weight_decay * delta.norm() / h0.norm() ** 2
            if loss < settings.stop_loss or step == settings.steps - 1:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                delta *= (settings.clamp * h0.norm() / delta.norm()).clamp_max(1)
    finally:
        handle.remove()
    key = keys.mean(0)
    change = torch.outer(h0 + delta.detach() - site.values(key), key / (key @ key))
    questions = [(request.prompt, request.target_new), *((prompt, request.target_new) for prompt in request.rephrases)]
    for probes in (*request.locality.values(), *request.portability.values()):
        questions += [(probe.prompt, probe.answers[0]) for probe in probes]
    ask(model, tokenizer, questions)
    with WeightDelta({site.name: DenseUpdate(change)}).applied(model):
        ask(model, tokenizer, questions)
    return change


def plainly(
    method: RROME,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: list[EditRequest],
    layer: int,
) -> list[Tensor]:
    """Every request by itself."""
    return [one_at_a_time(method, model, tokenizer, request, layer) for request in requests]


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[tuple[str, str]]) -> list[float]:
    """Token accuracy, one question at a time."""
    scores = []
    with torch.no_grad():
        for prompt, answer in questions:
            ids = tokenizer(prompt)["input_ids"]
            target = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
            said = model(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1].argmax(-1)
            scores.append((said == torch.tensor(target)).float().mean().item())
    return scores


def ours(
    method: RROME,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: list[EditRequest],
    layer: int,
    batch_size: int,
) -> list[WeightDelta]:
    """The same by the package."""
    deltas: list[WeightDelta] = []
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        deltas += method.compute_each(model, tokenizer, batch, layer)
        evaluate(model, tokenizer, batch, deltas[start:], EvaluationConfig(generate=False))
    return deltas


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description="Edits a second: a batch against one request at a time.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sample", type=int, default=2, help="requests a round that are edited one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contexts", type=int, default=5, help="sampled texts of 10 tokens")
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    console = Console()
    model, tokenizer = load_model(options.model)
    requests = load_requests(split="proxy", limit=options.requests).requests
    method = RROME(steps=options.steps, context_lengths=(10,), contexts_each=options.contexts, second_moment="identity")
    method.contexts.of(model, tokenizer)
    seconds: dict[str, list[float]] = {"one at a time, plainly": [], "ours, one at a time": [], "ours, batched": []}
    processor: dict[str, list[float]] = {name: [] for name in seconds}

    def timed(name: str, count: int, call: Callable[[], object]) -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        seconds[name].append((time.perf_counter() - wall) / count)
        processor[name].append((time.process_time() - cpu) / count)
        console.print(f"{name}: {seconds[name][-1]:.2f} s an edit", style="dim")
        return result

    worst = 0.0
    for number in range(options.rounds):
        sample = [requests[(number * options.sample + i) % len(requests)] for i in range(options.sample)]
        plain = timed(
            "one at a time, plainly",
            len(sample),
            partial(plainly, method, model, tokenizer, sample, options.layer),
        )
        timed(
            "ours, one at a time",
            len(sample),
            partial(ours, method, model, tokenizer, sample, options.layer, 1),
        )  # type: ignore[misc]
        deltas = timed(
            "ours, batched",
            len(requests),
            partial(ours, method, model, tokenizer, requests, options.layer, options.batch_size),
        )
        for request, change in zip(sample, plain, strict=True):  # type: ignore[call-overload]
            mine = deltas[requests.index(request)].matrix(edit_site(model, options.layer).name)  # type: ignore[index]
            worst = max(worst, ((mine - change).norm() / change.norm()).item())
    table = Table(
        title=f"R-ROME on {options.model}, float32, cpu, {torch.get_num_threads()} threads: {options.requests} requests, "
        f"{options.contexts + 1} contexts, {options.steps} steps, scoring included; medians of {options.rounds} rounds"
    )
    for heading in ("", "edits a second", "CPU seconds an edit", "times as many"):
        table.add_column(heading, justify="right" if heading else "left")
    base = statistics.median(seconds["one at a time, plainly"])
    for name, values in seconds.items():
        median = statistics.median(values)
        cpu = statistics.median(processor[name])
        table.add_row(name, f"{1 / median:.3f}", f"{cpu:.2f}", f"{base / median:.1f}x")
    console.print(table)
    console.print(f"Largest difference of an edit from the plain one, relative to its norm: {worst:.1e}")


if __name__ == "__main__":
    main()
