"""What scoring edits by generation costs: ours, many requests in one batch, and one prompt at a time.

    python benchmarks/generation.py [--model smollm2-135m] [--requests 100] [--batch-size 8] [--sample 5]

Every request has its prompt, its rephrases, one locality probe and its portability probes; the model responds to
every prompt before and after the request's edit. The edits are the real ones of R-ROME with few steps, or random ones of the same size as
nothing but the time is measured. One by one: the edit is written into the weights, and transformers' `generate` answers each
prompt alone; on a sample of the requests, since it takes long. The answers must be the same. Where others use the machine,
CPU seconds are what to compare: on idle cores, a run takes them divided by the cores it keeps busy.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria

from lga_lightning.data import load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, LowRankUpdate, WeightDelta
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.prompts import prompts_of
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.generation import answer_prefixes
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.loading import load_model


def prepare(args: argparse.Namespace) -> list[EditRequest]:
    """Requests with one locality probe each."""
    found = load_requests(args.data, limit=args.requests).requests
    return [
        replace(request, locality={kind: probes[:1] for kind, probes in list(request.locality.items())[:1]})
        for request in found
    ]


def make_edits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: list[EditRequest], args: argparse.Namespace
) -> list[WeightDelta]:
    """Edits of the requests: R-ROME's, or random ones of rank one."""
    if args.steps:
        editor = RROME(steps=args.steps, contexts_each=1, context_lengths=(5,), second_moment="identity")
        parts = (requests[start : start + 16] for start in range(0, len(requests), 16))
        return [delta for part in parts for delta in editor.compute_each(model, tokenizer, part, args.layer)]
    site = edit_site(model, args.layer)
    generator = torch.Generator().manual_seed(0)
    factors = [
        (torch.randn(site.out_features, 1, generator=generator), torch.randn(1, site.in_features, generator=generator))
        for _ in requests
    ]
    scale = 0.1 * float(site.weight.norm())
    return [WeightDelta({site.name: LowRankUpdate(b * scale / (b.norm() * a.norm()), a)}) for b, a in factors]


def ours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    deltas: Sequence[WeightDelta],
    config: EvaluationConfig,
    batch_size: int,
) -> list[list[tuple[str, str]]]:
    """The model's own words before and after, by request and prompt; batches of requests as `lga validate` has them."""
    words: list[list[tuple[str, str]]] = []
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        results = evaluate(model, tokenizer, [requests[i] for i in rows], [deltas[i] for i in rows], config)
        words += [[result.said or ("", "") for result in of_request] for of_request in results]
    return [words[order.index(row)] for row in range(len(requests))]


def one_by_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: EditRequest, delta: WeightDelta, limit: int
) -> list[tuple[str, str]]:
    """The same with the edit in the weights, and one call of `generate` a prompt."""
    stop = StoppingCriteriaList([StopStringCriteria(tokenizer, ["\n", "."])])

    def say(prompt: str) -> str:
        encoded = tokenizer(prompt, return_tensors="pt").to(input_device(model))
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        output = model.generate(
            **encoded,
            max_new_tokens=limit,
            stopping_criteria=stop,
            pad_token_id=tokenizer.eos_token_id,
            repetition_penalty=1.0,
            **options,
        )
        return answer_prefixes(tokenizer.decode(output[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True))[
            0
        ]

    prompts = [prompt.prompt for prompt in prompts_of(request)]
    before = [say(prompt) for prompt in prompts]
    with delta.applied(model):
        return list(zip(before, [say(prompt) for prompt in prompts], strict=True))


def timed(run: Callable[[], Any], device: str) -> tuple[Tensor, Any]:
    """Seconds of a run, by the clock and of all cores' work together, and what it gave."""
    start, work = time.perf_counter(), time.process_time()
    result = run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return torch.tensor([time.perf_counter() - start, time.process_time() - work]), result


def main() -> None:
    """Time both on the same requests."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default=None, help="a JSONL file of requests; the bundled facts by default")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8, help="requests a batch, as in lga validate")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="of R-ROME; 0 for random edits, which take no time")
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--sample", type=int, default=5, help="requests for one by one")
    args = parser.parse_args()

    model, tokenizer = load_model(args.model, args.dtype)
    model.to(args.device)
    requests = prepare(args)
    deltas = make_edits(model, tokenizer, requests, args)
    sample = list(range(0, len(requests), max(1, len(requests) // args.sample)))[: args.sample]
    full = EvaluationConfig(max_new_tokens=args.max_new_tokens)
    ours(model, tokenizer, requests[:2], deltas[:2], full, args.batch_size)  # warm-up
    load = os.getloadavg()[0]

    console = Console()
    console.print("Ours, generated and token scores ...")
    every, words = timed(lambda: ours(model, tokenizer, requests, deltas, full, args.batch_size), args.device)
    console.print(f"{every[0]:.1f} s, {every[1]:.1f} CPU s. Ours, token scores alone ...")
    forced = EvaluationConfig(generate=False)
    tokens, _ = timed(lambda: ours(model, tokenizer, requests, deltas, forced, args.batch_size), args.device)
    console.print(f"{tokens[0]:.1f} s, {tokens[1]:.1f} CPU s. One by one ...")
    alone, said = timed(
        lambda: [one_by_one(model, tokenizer, requests[i], deltas[i], args.max_new_tokens) for i in sample], args.device
    )
    alone *= len(requests) / len(sample)
    prompts = [prompts_of(request) for request in requests]
    count = sum(map(len, prompts))
    same = [
        ours_said == theirs
        for i, theirs_of_request in zip(sample, said, strict=True)
        for ours_said, theirs, prompt in zip(words[i], theirs_of_request, prompts[i], strict=True)
        if not any("." in answer for answer in prompt.answers)  # ours goes on behind such a full stop
    ]

    table = Table(
        title=f"{args.model}, {args.dtype}, {args.device}: {len(requests)} requests, {count} prompts, both sides"
    )
    for heading in ("", "seconds", "CPU seconds", "answers a second", "against one by one"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, seconds in (
        ("ours, generated and token scores", every),
        ("ours, token scores alone", tokens),
        (f"one by one, generated (from {len(sample)} requests)", alone),
    ):
        clock, work = seconds.tolist()
        rate = f"{2 * count / clock:.1f}" if "generated" in name else ""
        table.add_row(name, f"{clock:.1f}", f"{work:.1f}", rate, f"{float(alone[1]) / work:.1f}x")
    console.print(table)
    console.print(f"Answers equal to those one by one: {sum(same)} of {len(same)}")
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    console.print(f"{threads}; load average of the machine: {load:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
