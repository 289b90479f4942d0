"""Check that a facts file is well-formed and that a model knows every fact in it.

Each line of the file is one edit request. A row passes if its fields follow the rules in ``structural_problems`` and the
model answers its prompt right greedily: in one teacher-forced pass over the prompt and ``target_old``, every token of the
answer is the most likely one at its position. How often the model also knows the rephrases and the locality probes is
printed, but is no reason to fail.

Example:
    ```
    python benchmarks/check_facts.py                                    # the bundled facts, the embedded model
    python benchmarks/check_facts.py --model gpt2 --requests mine.jsonl
    ```
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lga_lightning.models.loading import load_model

FIELDS = ["prompt", "subject", "target_new", "target_old", "rephrases", "locality", "portability", "relation", "split"]
MIN_ROWS, MIN_RELATIONS, MIN_REPHRASES, MIN_LOCALITY = 150, 8, 2, 3
console = Console()


def structural_problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with one row by itself, apart from what the model knows."""
    if list(row) != FIELDS:
        return [f"the fields are {list(row)}, not {FIELDS}"]
    subject, new, old = row["subject"], row["target_new"], row["target_old"]
    word = re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)")
    prompts = [row["prompt"], *row["rephrases"]]
    problems = [f"{text!r} does not name {subject!r} exactly once" for text in prompts if len(word.findall(text)) != 1]
    if new.casefold() in old.casefold() or old.casefold() in new.casefold():
        problems.append(f"the targets {new!r} and {old!r} are equal, or one contains the other")
    if len(set(prompts)) <= MIN_REPHRASES:
        problems.append(f"fewer than {MIN_REPHRASES} different rephrases")
    probes = row["locality"].get("neighborhood", [])
    if len({probe["prompt"] for probe in probes}) < MIN_LOCALITY:
        problems.append(f"fewer than {MIN_LOCALITY} different locality probes")
    problems += [f"{p['prompt']!r} is about the row's own subject" for p in probes if word.search(p["prompt"])]
    everywhere = [probe for kind in ("locality", "portability") for ps in row[kind].values() for probe in ps]
    texts = [new, old, *prompts, *(text for probe in everywhere for text in (probe["prompt"], *probe["answers"]))]
    problems += [f"{text!r} is empty or has spaces around it" for text in texts if not text or text != text.strip()]
    problems += [f"{probe['prompt']!r} has no answers" for probe in everywhere if not probe["answers"]]
    if row["split"] not in ("proxy", "test"):
        problems.append(f"the split is {row['split']!r}")
    return problems


def file_problems(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the file as a whole."""
    problems = []
    if len(rows) < MIN_ROWS:
        problems.append(f"{len(rows)} rows, fewer than {MIN_ROWS}")
    if len(relations := {row.get("relation") for row in rows}) < MIN_RELATIONS:
        problems.append(f"{len(relations)} relations, fewer than {MIN_RELATIONS}")
    # a subject that is there only once cannot be in both splits
    times = Counter(str(row.get("subject")).casefold() for row in rows)
    return problems + [f"the subject {subject!r} is in {n} rows" for subject, n in times.items() if n > 1]


@torch.inference_mode()
def knows(model: Any, tokenizer: Any, pairs: list[tuple[str, str]], batch_size: int) -> list[bool]:
    """Whether the model answers each (prompt, answer) right greedily."""
    encoded = [
        (tokenizer(prompt)["input_ids"], tokenizer(" " + answer, add_special_tokens=False)["input_ids"])
        for prompt, answer in pairs
    ]
    known = [False] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: len(encoded[i][0] + encoded[i][1]))  # little padding in each batch
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        sequences = [torch.tensor(encoded[i][0] + encoded[i][1]) for i in chosen]
        input_ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True)
        logits = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for i, guess in zip(chosen, logits.argmax(-1).tolist(), strict=True):
            prompt, answer = encoded[i]
            known[i] = guess[len(prompt) - 1 : len(prompt) + len(answer) - 1] == answer
    return known


def main() -> int:
    """Check the file, print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m", help="what load_model takes")
    parser.add_argument("--requests", type=Path, help="a JSON lines file (default: the bundled facts)")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    source = args.requests or files("lga_lightning") / "data" / "facts.jsonl"
    lines = {n: s for n, s in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1) if s.strip()}
    rows: dict[int, dict[str, Any]] = {number: json.loads(line) for number, line in lines.items()}
    failures = {number: structural_problems(row) for number, row in rows.items()}
    whole = file_problems(list(rows.values()))

    questions: list[tuple[int, str, str, str]] = []  # line number, what is asked, prompt, answer
    for number, row in rows.items():
        if list(row) == FIELDS:
            questions.append((number, "prompt", row["prompt"], row["target_old"]))
            questions += [(number, "rephrases", text, row["target_old"]) for text in row["rephrases"]]
            probes = (probe for kind in row["locality"].values() for probe in kind)
            questions += [(number, "locality", probe["prompt"], a) for probe in probes for a in probe["answers"]]
    model, tokenizer = load_model(args.model)
    verdicts = knows(model, tokenizer, [(prompt, answer) for _, _, prompt, answer in questions], args.batch_size)

    right: dict[tuple[int, str, str], bool] = defaultdict(bool)  # one right answer of several is enough
    for (number, what, prompt, answer), known in zip(questions, verdicts, strict=True):
        right[number, what, prompt] |= known
        if what == "prompt" and not known:
            failures[number].append(f"the model does not continue {prompt!r} with {answer!r}")

    table = Table("relation", "rows", "known", "proxy/test", "rephrases", "locality", title="What the model knows")
    relations = Counter(row.get("relation", "?") for row in rows.values())
    for relation in [*relations, "all"]:
        chosen = {n for n, row in rows.items() if relation in ("all", row.get("relation", "?"))}
        splits = Counter(rows[n].get("split") for n in chosen)
        hits: dict[str, list[bool]] = {"prompt": [], "rephrases": [], "locality": []}
        for (number, what, _), known in right.items():
            if number in chosen:
                hits[what].append(known)
        shares = [f"{sum(hits[what]) / max(len(hits[what]), 1):.0%}" for what in ("rephrases", "locality")]
        n_known = sum(hits["prompt"])
        table.add_row(relation, str(len(chosen)), str(n_known), f"{splits['proxy']}/{splits['test']}", *shares)
    console.print(table)
    console.print(f"{args.model} answers {n_known} of {len(rows)} rows right greedily, in {len(relations)} relations.")
    for number, problems in failures.items():
        for problem in problems:
            console.print(f"line {number}: {problem}", style="red", markup=False, soft_wrap=True)
    for problem in whole:
        console.print(f"file: {problem}", style="red", markup=False, soft_wrap=True)
    return int(bool(whole) or any(failures.values()))


if __name__ == "__main__":
    sys.exit(main())
