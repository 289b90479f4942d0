"""Evidence for the choice of a layer: sweeps of a model by several editors, and what every locator says of the same facts.

    python benchmarks/forecast.py --model smollm2-135m --data known.jsonl --text text.txt --folder runs/forecast/smollm2

One model a call: all facts are edited at all layers, by an editor with C = I and one with C from a text. The search for the
target value knows nothing of C, so both share it. Then the locators score the same facts. Everything is kept batch by batch
under the folder: the same command goes on where it was interrupted. ``benchmarks/forecast_page.py`` makes the tables of all
models' folders, on draws of proxies and tests that share no fact.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from history import check_about
from rich.console import Console
from safetensors.torch import save_file

from lga_lightning import CausalTracing, ValueGradient, load_model, load_requests
from lga_lightning import editing as methods
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EditMethod
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.locators import LGA, EditForecast, LayerLocator
from lga_lightning.models.architecture import blocks
from lga_lightning.utils.io import write_whole

FAMILIES = ("rewrite", "rephrase", "locality")
console = Console()


def sweep(
    folder: Path, model: object, tokenizer: object, editors: dict[str, EditMethod], facts: list[EditRequest], batch: int
) -> None:
    """Edit all facts at every layer, by editors whose searches are the same."""
    for editor in editors.values():
        editor.prepare(model, tokenizer, range(len(blocks(model))))  # type: ignore[arg-type]
    first = next(iter(editors.values()))
    for start in range(0, len(facts), batch):
        paths = {name: folder / f"sweep-{name}" / f"{start:04d}.safetensors" for name in editors}
        if all(path.exists() for path in paths.values()):
            continue
        part, since = facts[start : start + batch], time.perf_counter()
        config = EvaluationConfig(generate=False, families=FAMILIES)
        evaluate = Evaluator(model, tokenizer, part, config)  # type: ignore[arg-type]
        found: dict[str, list[torch.Tensor]] = {name: [] for name in editors}
        for layers in map(first.window_at, range(len(blocks(model)))):  # type: ignore[arg-type]
            targets = first.optimize_targets(model, tokenizer, part, layers)  # type: ignore[arg-type]
            for name, editor in editors.items():
                results = evaluate(editor.write(model, tokenizer, targets.each(), layers))  # type: ignore[arg-type]
                found[name].append(torch.stack([mean_scores(results, one, "token")[:, 1] for one in FAMILIES], 1))
        for name, path in paths.items():
            three = torch.stack(found[name], -1)
            values = torch.cat([three.nanmean(1, keepdim=True), three], 1).float()
            write_whole(path, lambda scratch, values=values: save_file({"values": values}, scratch))  # type: ignore[misc]
        console.print(f"{folder.name}: {start + len(part)} of {len(facts)} facts, {time.perf_counter() - since:.0f} s")


def score(
    folder: Path,
    model: object,
    tokenizer: object,
    locators: dict[str, LayerLocator],
    facts: list[EditRequest],
    batch: int,
) -> None:
    """What each locator says of the facts, and of a forecast each of its rows."""
    for name, locator in locators.items():
        paths = [folder / f"locator-{name}" / f"{start:04d}.safetensors" for start in range(0, len(facts), batch)]
        if all(path.exists() for path in paths):
            continue
        locator.prepare(model, tokenizer, facts)  # type: ignore[arg-type]
        since = time.perf_counter()
        for number, path in enumerate(paths):
            part = facts[number * batch : (number + 1) * batch]
            if path.exists():
                continue
            begun = time.perf_counter()
            if isinstance(locator, EditForecast):
                rows, found = locator.forecast(model, tokenizer, part)  # type: ignore[arg-type]
                tensors = {"owner": rows.owner + number * batch, "ask": rows.ask, **vars(found)}
            else:
                tensors = {"values": locator.score(model, tokenizer, part).values.float()}  # type: ignore[arg-type]
            note = {"seconds": repr(time.perf_counter() - begun)}
            tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
            write_whole(path, lambda scratch, t=tensors, n=note: save_file(t, scratch, metadata=n))  # type: ignore[misc]
        console.print(f"{folder.name}: {name}, {time.perf_counter() - since:.0f} s")


def main() -> None:
    """Gather the evidence on one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="facts that the model knows (benchmarks/known.py)")
    parser.add_argument("--text", default="sampled", help="what C is estimated from")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--method", default="RROME")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the method, as JSON")
    parser.add_argument("--no-identity", action="store_true", help="for methods that need C")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tracing", type=int, nargs="*", default=[10, 5, 3], help="windows of causal tracing")
    args = parser.parse_args()
    quick = {"steps": 12, "context_lengths": (10,), "contexts_each": 2}
    tuned = args.method.startswith("FT")
    settings = args.settings if tuned else {**quick, **args.settings}
    model, tokenizer = load_model(args.model, args.dtype, "eager")
    facts = load_requests(args.data, limit=args.facts).requests
    kind = getattr(methods, args.method)
    sources = [None] if tuned else [args.text] if args.no_identity else ["identity", args.text]
    editors: dict[str, EditMethod] = {}
    for source in sources:
        name = args.method if source is None else f"{args.method}-{'I' if source == 'identity' else 'C'}"
        editors[name] = kind(**settings, **({} if source is None else {"second_moment": source}))
    described = {name: editor.settings(model) for name, editor in editors.items()}
    about = {
        "model": args.model,
        "data": Path(args.data).name,
        "family": model.config.model_type,
        "facts": len(facts),
        "dtype": args.dtype,
        "batch": args.batch,
        "editors": described,
    }
    check_about(args.folder / f"about-{args.method}.json", about)
    locators: dict[str, LayerLocator] = {
        f"EditForecast-{name}": EditForecast().for_editor(editor) for name, editor in editors.items()
    }
    if args.method == "RROME":
        locators |= {"ValueGradient": ValueGradient(), "LGA-answer": LGA(), "LGA-text": LGA(loss="text")}
        locators |= {f"CausalTracing-{window}": CausalTracing(window=window) for window in args.tracing}
    sweep(args.folder, model, tokenizer, editors, facts, args.batch)
    score(args.folder, model, tokenizer, locators, facts, 8)


if __name__ == "__main__":
    main()
