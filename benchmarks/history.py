"""Many edits in a row: MEMIT and EMMET with and without the keys of earlier edits, against AlphaEdit.

    python benchmarks/history.py --model smollm2-135m --data known.jsonl --folder runs/history/smollm2

The facts are edited in groups, each in the model with all edits before. At 1, 2, 5, 10, 20, 50, ... edits (at the end of the group
in which they fall) and after the last, all facts so far (or ``--scored`` of them, drawn at random) are scored, teacher-forced, and those
of the first group by themselves; and what nobody edited is asked. Edits and keys are kept group by group under the folder: the same command
goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

from lga_lightning import load_model, load_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EMMET, MEMIT, ROME, RROME, AlphaEdit, LowRankUpdate, WeightDelta
from lga_lightning.editing.locate_then_edit import LocateThenEditMethod
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.results import EvalResult, mean_scores
from lga_lightning.job.general import ask_general
from lga_lightning.utils.io import write_json, write_whole
from lga_lightning.utils.tensors import largest

FAMILIES = ("rewrite", "rephrase", "locality")
GENERAL = ("choice", "perplexity")
PARTS = {"all": "", "first": ", first group"}
METHODS: dict[str, tuple[type[LocateThenEditMethod], dict[str, Any]]] = {
    "MEMIT": (MEMIT, {}),
    "MEMIT-history": (MEMIT, {"history": True}),
    "EMMET": (EMMET, {}),
    "EMMET-history": (EMMET, {"history": True}),
    "ROME": (ROME, {}),
    "ROME-history": (ROME, {"history": True}),
    "RROME": (RROME, {}),
    "RROME-history": (RROME, {"history": True}),
    "AlphaEdit": (AlphaEdit, {}),
}
DEFAULT = ("MEMIT", "MEMIT-history", "AlphaEdit", "EMMET-history")
CAPTION = "Token accuracy; of locality, the share of predictions that are as before; of choice and perplexity, the ratio to the unedited model's."
CONSOLE = Console(width=160)


def looks(edits: int) -> set[int]:
    """1, 2, 5, 10, 20, 50, ... as far as there are edits, and their number itself."""
    found, power = {edits}, 1
    while power <= edits:
        found |= {step * power for step in (1, 2, 5) if step * power <= edits}
        power *= 10
    return found


def keep(session: EditSession, path: Path) -> None:
    """Write down a session as it is: its edits of a low rank, and the keys that it remembers."""
    tensors = {}
    for name, update in session.delta.updates.items():
        tensors[f"b:{name}"], tensors[f"a:{name}"] = (factor.contiguous() for factor in update.factors)
    tensors |= {f"keys:{layer}": rows.contiguous() for layer, rows in (session.history or {}).items()}
    note = {"edits": str(len(session.requests))}
    write_whole(path, lambda scratch: save_file(tensors, scratch, metadata=note))


def go_on(session: EditSession, path: Path, facts: list[EditRequest]) -> None:
    """Bring a new session to where :func:`keep` left one."""
    device = str(session.model.device)
    with safe_open(path, framework="pt", device=device) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        session.requests = facts[: int(file.metadata()["edits"])]
    names = [name.removeprefix("b:") for name in tensors if name.startswith("b:")]
    session.delta = WeightDelta({name: LowRankUpdate(tensors[f"b:{name}"], tensors[f"a:{name}"]) for name in names})
    if session.history is not None:
        rows = {name.removeprefix("keys:"): keys for name, keys in tensors.items() if name.startswith("keys:")}
        session.history.update({int(layer): keys for layer, keys in rows.items()})


def means(results: list[list[EvalResult]]) -> dict[str, float]:
    """By family, the mean after the edits over the requests that have such prompts."""
    return {family: mean_scores(results, family, "token")[:, 1].nanmean().item() for family in FAMILIES}


def look(session: EditSession, group: int, config: EvaluationConfig) -> dict[str, Any]:
    """Scores of facts so far and of the first group's, what is left of the general suite, and the size of the change."""
    count = len(session.requests)
    parts = {"all": config.drawn(range(count)), "first": list(range(min(group, count)))}
    places = sorted({place for part in parts.values() for place in part})
    asked = [session.requests[place] for place in places]
    results = evaluate(session.model, session.tokenizer, asked, [session.delta] * len(asked), config)
    by_place = dict(zip(places, results, strict=True))
    found: dict[str, Any] = {name: means([by_place[place] for place in part]) for name, part in parts.items()}
    general = ask_general(session.model, session.tokenizer, session.requests, session.delta).scores
    left = {name: general[name].ratio for name in GENERAL if name in general}
    return {**found, "general": left, "norm": largest(session.relative_norms().values())}


def run(
    session: EditSession, facts: list[EditRequest], group: int, folder: Path, config: EvaluationConfig
) -> Iterator[str]:
    """Edit all facts, or those that are left; a line for each group, in words."""
    state, table = folder / "session.safetensors", folder / "scores.json"
    scores: dict[str, Any] = json.loads(table.read_text()) if table.is_file() else {}
    if state.is_file():
        go_on(session, state, facts)
    while True:
        done = len(session.requests)
        passed = any(done - group < point <= done for point in looks(len(facts)))
        if done and passed and str(done) not in scores:
            scores[str(done)] = look(session, group, config)
            write_json(table, scores)
            yield f"after {done} edits: {', '.join(f'{name} {value:.3f}' for name, value in numbers(scores[str(done)]).items())}"
        if done == len(facts):
            return
        begin = time.perf_counter()
        session.edit(facts[done : done + group], group)
        keep(session, state)
        yield f"{len(session.requests)} of {len(facts)} edits, {time.perf_counter() - begin:.0f} s for the last group"


def numbers(score: dict[str, Any]) -> dict[str, float]:
    """What a look found, by heading."""
    found = {f"{family}{suffix}": score[part][family] for part, suffix in PARTS.items() for family in FAMILIES}
    return found | {name: score["general"].get(name, math.nan) for name in GENERAL} | {"change / weight": score["norm"]}


def show(folder: Path, names: list[str], title: str) -> None:
    """All methods' scores as a table."""
    looks_of = {name: json.loads((folder / name / "scores.json").read_text()) for name in names}
    rows = [(name, edits, numbers(score)) for name, looks in looks_of.items() for edits, score in looks.items()]
    table = Table(title=title, caption=CAPTION)
    table.add_column("method")
    for heading in ("edits", *rows[0][2]):
        table.add_column(heading, justify="right")
    for name, edits, found in rows:
        last = edits == [*looks_of[name]][-1]
        table.add_row(name, edits, *(f"{value:.3f}" for value in found.values()), end_section=last)
    CONSOLE.print(table)


def first_of_each_prompt(facts: list[EditRequest], count: int) -> list[EditRequest]:
    """So many facts, none of which takes back another."""
    distinct = {fact.prompt: fact for fact in reversed(facts)}
    return [fact for fact in facts if distinct[fact.prompt] is fact][:count]


def check_about(path: Path, about: dict[str, Any]) -> None:
    """Write down what a folder's edits were made with; stop if it holds those of other settings."""
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(about)):
        raise SystemExit(f"{path.parent} holds edits that were made with other settings. Give another --folder.")
    write_json(path, about)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default=None, help="the bundled facts by default")
    parser.add_argument("--text", default="sampled", help="what C is estimated from")
    parser.add_argument("--tokens", type=int, default=None, help="for C")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--group", type=int, default=50)
    parser.add_argument("--scored", type=int, help="facts so far that are scored, drawn at random; all by default")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=DEFAULT)
    parser.add_argument("--layers", type=int, nargs="*", default=None, help="those that papers edit by default")
    parser.add_argument("--settings", type=json.loads, default={}, help="of all methods, as JSON")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model, tokenizer = load_model(args.model, args.dtype)
    model.to(args.device)
    facts = first_of_each_prompt(load_requests(args.data).requests, args.edits)
    shared = {"second_moment": args.text, "moment_tokens": args.tokens, **args.settings}
    config = EvaluationConfig(generate=False, families=FAMILIES, scored=args.scored, unedited={})
    covariance = None  # C knows nothing of the method: one for all
    for label in args.methods:
        kind, own = METHODS[label]
        method = kind(**shared, **own)
        layers = args.layers or method.default_layers(model)
        covariance = method.covariance = covariance or method.covariance
        about = {name: getattr(args, name) for name in ("model", "dtype", "data", "group")}
        about |= {"edits": len(facts), "layers": layers}
        check_about(args.folder / label / "about.json", {**about, "method": method.settings(model)})
        method.prepare(model, tokenizer, layers)  # on the unedited model
        session = EditSession(method, model, tokenizer, layers)
        for line in run(session, facts, args.group, args.folder / label, config):
            CONSOLE.print(f"{label}: {line}", style="dim")
    show(args.folder, list(args.methods), f"{args.model}: {len(facts)} edits in a row, in groups of {args.group}")


if __name__ == "__main__":
    main()
