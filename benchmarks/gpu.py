"""What passes, forecasts and edits cost on an accelerator, at the sizes of models in use, with random weights. Nothing is downloaded.

    python benchmarks/gpu.py                                  # all models that fit, bfloat16, on the CUDA device
    python benchmarks/gpu.py --models llama-2-7b --batch-size 64 --output table.md
    python benchmarks/gpu.py --tiny --device cpu              # the same on models of a few thousand weights, within seconds

Prints a Markdown table. Every request is 4 rows of 10 tokens (its prompt, a rephrase, two prompts to be kept), and every request of a batch
makes all steps of its search. The share is that of the rate of one large matrix product in the same dtype, measured first; FLOPs are those
of benchmarks/costs.py. Plain autograd is timed on a few requests. A model or a part that does not fit, or is not supported, says so in its row.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from costs import Rows, Shape, autograd_flops, backward_flops, edit_flops, forecast_flops, forward_flops, pass_flops
from random_models import ANSWER, PROMPT, RandomModel, random_requests, rows_of_search, word_tokenizer
from rich.console import Console
from transformers import PreTrainedModel

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, UltraEdit
from lga_lightning.editing.presets import ROME_DEPTH
from lga_lightning.exceptions import ModelError
from lga_lightning.locators.first_order import Rows as EncodedRows
from lga_lightning.locators.first_order import encode_rows, forecast_rows
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.experts import DOWN, ExpertMatrix
from lga_lightning.models.hooks import logits_at
from lga_lightning.models.likelihood import answer_nll

GEMMA = Shape(48, 3840, 16, 8, 256, 15360, 262208, tied=True, norm_behind=True)
MODELS = {
    "gpt2-xl": (RandomModel("gpt2", Shape(48, 1600, 25, 25, 64, 6400, 50257, gated=False, tied=True)), 64),
    "llama-2-7b": (RandomModel("llama", Shape(32, 4096, 32, 32, 128, 11008, 32000)), 64),
    "gemma-3-12b": (RandomModel("gemma3_text", GEMMA), 32),
    "qwen3-30b-a3b": (RandomModel("qwen3_moe", Shape(48, 2048, 32, 4, 128, 768, 151936, experts=128, active=8)), 32),
}
"""Models, and the requests of a batch."""
HEADINGS = (
    "model",
    "",
    "requests",
    "ms a request",
    "over the bare pass",
    "requests a minute",
    "peak GB, weights included",
    "of the matrix rate",
)
NOTHING = ["-"] * 6


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        name: Its name in the table.
        run: Does it once, for all its requests.
        requests: Number of these.
        flops: FLOPs of that.
    """

    name: str
    run: Callable[[], object]
    requests: int
    flops: float


def tiny(model: RandomModel) -> RandomModel:
    """The same family with 4 blocks of a width of 32.

    Args:
        model: A model.
    """
    s = model.shape
    experts, active = (8, 2) if s.experts > 1 else (1, 1)
    heads = 4 if s.heads == s.kv_heads else 2
    small = replace(s, depth=4, width=32, heads=4, kv_heads=heads, head_width=8, inner=64, vocabulary=300)
    return replace(model, shape=replace(small, experts=experts, active=active))


def bare(model: PreTrainedModel, rows: EncodedRows) -> None:
    """Forward and backward to the embeddings, without a hook on a block."""
    embedded = model.get_input_embeddings()(rows.batch.input_ids).requires_grad_()
    with logits_at(model, rows.batch.positions):
        logits = model(inputs_embeds=embedded, use_cache=False).logits.float()
    torch.autograd.grad(answer_nll(logits, rows.batch.labels).sum(), embedded)


def autograd(model: PreTrainedModel, rows: EncodedRows) -> None:
    """The gradient of every out-projection, formed for one row after the other."""
    modules = [edit_site(model, layer).module for layer in range(len(blocks(model)))]
    weights = [
        module.experts.get_parameter(DOWN) if isinstance(module, ExpertMatrix) else module.get_parameter("weight")
        for module in modules
    ]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for ids, positions, labels in zip(rows.batch.input_ids, rows.batch.positions, rows.batch.labels, strict=True):
            with logits_at(model, positions.unsqueeze(0)):
                logits = model(input_ids=ids.unsqueeze(0), use_cache=False).logits.float()
            torch.autograd.grad(answer_nll(logits, labels.unsqueeze(0)).sum(), weights)
    finally:
        model.requires_grad_(False)


def contenders(model: PreTrainedModel, shape: Shape, count: int, args: argparse.Namespace) -> list[Contender]:
    """Everything that is timed on a model; edits are at the depth at which ROME's paper makes them.

    Args:
        model: The model.
        shape: Its shape.
        count: Requests of a batch.
        args: The command line's.
    """
    tokenizer, device = word_tokenizer(shape.vocabulary), torch.device(args.device)

    def encoded(requests: list[EditRequest]) -> tuple[EncodedRows, Rows]:
        rows = encode_rows(tokenizer, requests, [[] for _ in requests]).to(device)
        return rows, Rows(len(rows.batch), rows.batch.input_ids.shape[1], ANSWER)

    requests = random_requests(count, shape.vocabulary)
    rows, size = encoded(requests)
    few, few_size = encoded(requests[: args.sample])
    layer = round(ROME_DEPTH * shape.depth)
    identity, ultra = RROME(second_moment="identity"), UltraEdit(warmup=0)
    editor = RROME(second_moment="identity", steps=args.steps, stop_loss=0.0)  # no request is done early
    contexts = 1 + editor.contexts.each * len(editor.contexts.lengths)
    answers, subjects = rows_of_search(count, contexts, max(editor.contexts.lengths))
    alone = Rows(count, PROMPT + ANSWER, ANSWER)
    above = shape.depth - 1 - layer  # blocks that the backward pass of an edit goes through
    return [
        Contender("bare pass", lambda: bare(model, rows), count, pass_flops(shape, size)),
        Contender(
            "forecast of all layers",
            lambda: forecast_rows(model, identity, rows, count),
            count,
            forecast_flops(shape, size, count),
        ),
        Contender(
            "autograd, row by row",
            lambda: autograd(model, few),
            min(args.sample, count),
            autograd_flops(shape, few_size),
        ),
        Contender(
            f"R-ROME edits, {contexts} contexts, {args.steps} steps",
            lambda: editor.compute(model, tokenizer, requests, layer, batch_size=count),
            count,
            edit_flops(shape, answers, subjects, layer, args.steps - 1),
        ),
        Contender(
            "UltraEdit edits",
            lambda: ultra.compute(model, tokenizer, requests, layer, batch_size=count),
            count,
            forward_flops(shape, alone) + backward_flops(shape, alone, above),
        ),
    ]


def seconds(call: Callable[[], object], device: str) -> float:
    """Seconds until a call's work is done on the device."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOPs a second of one square matrix product: the best of ten.

    Args:
        device: Where.
        dtype: Of both matrices.
        size: Their width.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def measure(name: str, random_model: RandomModel, count: int, rate: float, args: argparse.Namespace) -> list[list[str]]:
    """The rows of one model, or one that says why there is none.

    Args:
        name: Name of the model.
        random_model: The model.
        count: Requests of a batch.
        rate: The device's matrix rate.
        args: The command line's.
    """
    try:
        model = random_model.make(args.device, getattr(torch, args.dtype))
    except torch.OutOfMemoryError:
        return [[name, "the weights do not fit", *NOTHING]]
    table: list[list[str]] = []
    bare_time = None
    for contender in contenders(model, random_model.shape, count, args):
        numbers, each = measure_one(contender, rate, bare_time, args)
        bare_time = bare_time or each
        table.append([name, *numbers])
    return table


def measure_one(
    contender: Contender, rate: float, bare_time: float | None, args: argparse.Namespace
) -> tuple[list[str], float | None]:
    """The cells of one contender, and its seconds a request, if it can run.

    Args:
        contender: What is timed.
        rate: The device's matrix rate.
        bare_time: Seconds a request of the bare pass; None for the bare pass itself.
        args: The command line's.
    """
    on_gpu = args.device.startswith("cuda")
    try:
        contender.run()  # the warm-up; contexts are sampled here
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(args.device)
        taken = statistics.median(seconds(contender.run, args.device) for _ in range(args.rounds))
    except torch.OutOfMemoryError:
        return [f"{contender.name}: out of memory", *NOTHING], None
    except ModelError:
        return [f"{contender.name}: not supported by the package", *NOTHING], None
    each = taken / contender.requests
    peak = f"{torch.cuda.max_memory_allocated(args.device) / 1e9:.1f}" if on_gpu else "-"
    over = f"{each / (bare_time or each):.2f}"
    share = f"{contender.flops / taken / rate:.0%}"
    return [contender.name, str(contender.requests), f"{1000 * each:.2f}", over, f"{60 / each:,.0f}", peak, share], each


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tiny", action="store_true", help="models of a few thousand weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], help="bfloat16 by default; float32 on a CPU"
    )
    parser.add_argument("--batch-size", type=int, help="requests; by default what the model is given in MODELS")
    parser.add_argument("--sample", type=int, default=4, help="requests for plain autograd")
    parser.add_argument("--steps", type=int, default=25, help="of R-ROME's search")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a file for the table")
    args = parser.parse_args()
    if not args.tiny and args.device == "cpu":
        parser.error("models of these sizes need a GPU. Give --tiny on a CPU, or --device.")
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    rate = matrix_rate(args.device, getattr(torch, args.dtype), 512 if args.tiny else 8192)
    on_gpu = args.device.startswith("cuda")
    device = torch.cuda.get_device_name(args.device) if on_gpu else f"a CPU ({platform.machine()})"
    lines = [f"On {device}, {args.dtype}: {rate / 1e12:.2f} TFLOP a second in one matrix product."]
    lines += ["", "| " + " | ".join(HEADINGS) + " |", "|---|---|" + "--:|" * 6]
    for name in args.models:
        model, count = MODELS[name]
        model, count = (tiny(model), 4) if args.tiny else (model, count)
        lines += [f"| {' | '.join(row)} |" for row in measure(name, model, args.batch_size or count, rate, args)]
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
    Console(width=300).print("\n".join(lines), markup=False, highlight=False)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
