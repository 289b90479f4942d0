"""A table over all editing methods, on requests of a file that the model answers right.

The layer is LGA's on the bundled facts (none of which is among the requests); methods that spread an edit take the window
around it. Every request is edited alone. Methods that find the same target values in the same way share the search, and each
is charged for it. Results are kept method by method, so that an interrupted run goes on.

    python benchmarks/methods.py --requests counterfact-edit.json --text texts.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lga_lightning import load_model, load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME, AlphaEdit, EditMethod
from lga_lightning.editing.targets import EditTargets
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.summary import summarise
from lga_lightning.locators import LGA
from lga_lightning.locators.selection import choose
from lga_lightning.models.generation import greedy_answers
from lga_lightning.results.layer_spec import golden_window
from lga_lightning.results.versions import versions
from lga_lightning.utils.io import write_json

CONSOLE = Console(width=160)


def known_requests(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str, count: int
) -> list[EditRequest]:
    """The first so many requests of a file whose old answer the model's greedy answer begins with."""
    found: list[EditRequest] = []
    requests = [request for request in load_requests(path).requests if request.target_old]
    for start in range(0, len(requests), 64):
        batch = requests[start : start + 64]
        answers = greedy_answers(model, tokenizer, [request.prompt for request in batch], max_new_tokens=8)
        found += [r for r, said in zip(batch, answers, strict=True) if said.startswith((r.target_old or "").strip())]
        if len(found) >= count:
            break
    return found[:count]


def methods(text: str, tokens: int, contexts: int, steps: int | None) -> dict[str, tuple[EditMethod, str]]:
    """Every method by a label, and the name of the search that it shares with others."""
    search: dict[str, Any] = {
        "context_lengths": (10,),
        "contexts_each": contexts,
        "steps": steps,
        "moment_tokens": tokens,
    }
    with_c: dict[str, Any] = {**search, "second_moment": text}
    return {
        "ROME, C = I": (ROME(**search, second_moment="identity"), "rome"),
        "R-ROME, C = I": (RROME(**search, second_moment="identity"), "rome"),
        "R-ROME": (RROME(**with_c), "rome"),
        "MEMIT": (MEMIT(**with_c), "memit"),
        "MEMIT, lambda 15,000": (MEMIT(moment_weight=15_000, **with_c), "memit"),
        "AlphaEdit": (AlphaEdit(**with_c), "memit"),
        "EMMET": (EMMET(**with_c), "emmet"),
        "PMET": (PMET(**with_c), "pmet"),
        "FT-L": (FTL(), "ft"),
        "FT-M": (FTM(), "ft"),
        "FT-M, no bound": (FTM(epsilon=None), "ft"),
    }


def run(
    method: EditMethod,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: list[EditRequest],
    layers: list[int],
    batch_size: int,
    targets: list[EditTargets],
    targets_seconds: float,
) -> tuple[dict[str, Any], list[EditTargets], float]:
    """Edit and score; the search too, unless it was done for another method."""
    method.prepare(model, tokenizer, layers)  # contexts, second moments: once a model, not once an edit
    starts = range(0, len(requests), batch_size)
    if not targets:
        begin = time.perf_counter()
        targets = [method.optimize_targets(model, tokenizer, requests[s : s + batch_size], layers) for s in starts]
        targets_seconds = time.perf_counter() - begin
    results, written, size = [], 0.0, 0
    for start, found in zip(starts, targets, strict=True):
        begin = time.perf_counter()
        deltas = method.write(model, tokenizer, found.each(), layers)
        written += time.perf_counter() - begin
        results += evaluate(model, tokenizer, requests[start : start + batch_size], deltas, EvaluationConfig())
        if not size:
            with tempfile.TemporaryDirectory() as scratch:
                deltas[0].save_pretrained(Path(scratch) / "adapter", model)
                size = sum(path.stat().st_size for path in (Path(scratch) / "adapter").glob("*.safetensors"))
    seconds = (targets_seconds + written) / len(requests)
    result = {"layers": layers, "seconds": seconds, "bytes": size, "settings": method.settings(model)}
    if isinstance(method, MEMIT):
        result["leverage"] = leverage(method, model, targets, layers[-1])
    return {**result, "metrics": summarise(results)}, targets, targets_seconds


def leverage(method: MEMIT, model: PreTrainedModel, targets: list[EditTargets], layer: int) -> float:
    """The median of k^T C^-1 k: of the residual of a single edit, MEMIT's layer writes k^T C^-1 k / (lambda + k^T C^-1 k)."""
    keys = torch.cat([method.contexts.grouped_mean(found.keys) for found in targets])  # type: ignore[attr-defined]
    return float((method.covariance.solve(model, layer, keys.double()) * keys.double()).sum(1).median())


def markdown(results: dict[str, Any]) -> str:
    """The results as a table."""
    heading = ["method", "layers", "rewrite", "said", "rephrase", "said", "locality", "said", "s / edit", "adapter kB"]
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for name, result in results.items():
        layers, metrics = result["layers"], result["metrics"]
        cells = [name, str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"]
        for metric in ("rewrite", "rephrase", "locality"):
            for entry in (metrics[metric], metrics[metric]["begins" if metric != "locality" else "generated"]):
                low, high = entry["after_ci"]
                cells.append(f"{entry['after']:.2f} ({low:.2f}-{high:.2f})")
        lines.append("| " + " | ".join([*cells, f"{result['seconds']:.1f}", f"{result['bytes'] / 1000:.0f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--requests", required=True, help="a request file with target_old")
    parser.add_argument("--text", default="sampled", help="for second moments: a text file, a data set, or 'sampled'")
    parser.add_argument("--tokens", type=int, default=100_000, help="for second moments")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default=None)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument(
        "--contexts", type=int, default=5, help="sampled texts of 10 tokens that prompts are put behind"
    )
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--only", nargs="*", help="labels of methods")
    parser.add_argument("--output", default="runs/methods.json")
    options = parser.parse_args()
    path = Path(options.output)
    model, tokenizer = load_model(options.model, options.dtype, options.attention)
    requests = known_requests(model, tokenizer, options.requests, options.count)
    locator = LGA(scope="mlp_out", aggregate="absolute")
    proxies = load_requests(split="proxy").requests
    evidence = [locator.score(model, tokenizer, proxies[start : start + 8]).values[:, 0] for start in range(0, 128, 8)]
    choice = choose(torch.cat(evidence).abs())
    golden = choice.golden_layer
    CONSOLE.print(f"{len(requests)} requests; golden layer {golden}, window {golden_window(choice, 5)}")
    kept = json.loads(path.read_text()) if path.is_file() else {"options": vars(options), "methods": {}}
    if any(
        kept["options"].get(name) != value for name, value in vars(options).items() if name not in ("only", "output")
    ):
        raise SystemExit(f"{path} holds results of other options: {kept['options']}. Give another --output.")
    results: dict[str, Any] = kept["methods"]
    searches: dict[str, tuple[list[EditTargets], float]] = {}
    for label, (method, search) in methods(options.text, options.tokens, options.contexts, options.steps).items():
        if label in results or (options.only and label not in options.only):
            continue
        layers = [golden] if method.window == 1 else golden_window(choice, method.window)
        shared = searches.get(search, ([], 0.0)) if search != "ft" else ([], 0.0)
        result, *searches[search] = run(method, model, tokenizer, requests, layers, options.batch_size, *shared)  # type: ignore[assignment]
        results[label] = result
        write_json(path, {"options": vars(options), "versions": versions(), "methods": results})
        CONSOLE.print(markdown({label: result}).splitlines()[-1])
    CONSOLE.print(markdown(results), soft_wrap=True)
    for label, result in results.items():
        if "leverage" in result:
            weight, lever = result["settings"]["moment_weight"], result["leverage"]
            share = lever / (weight + lever)
            CONSOLE.print(
                f"{label}: lambda {weight:g}, median k^T C^-1 k {lever:.0f}: a layer writes {share:.0%} of its share"
            )


if __name__ == "__main__":
    main()
