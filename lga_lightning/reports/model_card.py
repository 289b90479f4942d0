"""The page that goes with an edit: what was edited, how, where, with which scores, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lga_lightning.data.requests import EditRequest
from lga_lightning.models.loading import hub_name
from lga_lightning.reports.wording import name_layers

SHOWN = 100  # requests

LOAD_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), "this folder")
model = model.unload()  # the base model again
```"""
LOAD_MATRICES = """This edit changes whole matrices, so it is not a LoRA adapter: `delta.safetensors` holds what is added to each.

```python
from lga_lightning import WeightDelta, load_model

model, tokenizer = load_model({base!r})
undo = WeightDelta.load("this folder", model).merge_(model)
undo.restore_()  # the base model again, bit for bit
```"""
LOAD_MERGED = """```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this folder")
```

The edits are in the weights. To keep them reversible, write an adapter instead (`lga predict` without `--merge`)."""


def model_card(
    content: Mapping[str, Any],
    requests: Sequence[EditRequest],
    ranks: Mapping[str, int],
    kind: str,
) -> str:
    """Text of a README.md for the Hub, in Markdown.

    Args:
        content: What the result file holds.
        requests: What was edited, in order.
        ranks: Ranks of the edit by module.
        kind: ``adapter``, ``matrices`` or ``merged``.
    """
    base, method = hub_name(content["model"]), content["method"]
    library = "peft" if kind == "adapter" else "transformers"
    load = {"adapter": LOAD_ADAPTER, "matrices": LOAD_MATRICES, "merged": LOAD_MERGED}[kind].format(base=base)
    facts = [[r.prompt, r.target_old or "", r.target_new] for r in requests[:SHOWN]]
    more = [f"... and {len(requests) - SHOWN} more; all are in `lga.json`."] if len(requests) > SHOWN else []
    scores = [
        [
            name,
            *(
                _number(entry[side])
                for entry in (metric, metric.get("generated", {}))
                for side in ("before", "after")
                if side in entry
            ),
        ]
        for name, metric in content["metrics"].items()
    ]
    settings = [[name, str(value)] for name, value in method.items() if name != "name"]
    shape = "" if kind == "merged" else f", rank {', '.join(map(str, sorted(set(ranks.values()))))}"
    lines = [
        "---",
        f"base_model: {base}",
        f"library_name: {library}",
        "tags: [knowledge-editing, lga-lightning]",
        "---",
        f"# {len(requests)} edited fact{'s' * (len(requests) != 1)} in {base}",
        "",
        f"Edited with {method['name']} at layer {name_layers(content['layers'])}{shape} ({content['layer_source']}; "
        f"{content['mode_means']}), by lga-lightning {content['versions']['lga-lightning']}.",
        "",
        load,
        "",
        "## What was edited",
        "",
        *_table(["prompt", "before", "after"], facts),
        *more,
        "",
        "## Scores",
        "",
        *_table(["metric", "before", "after", "generated before", "generated after"], scores),
        "",
        "Teacher-forced unless generated, which flatters. `lga.json` has the protocol of each number, its interval, and every request.",
        "",
        "## Settings",
        "",
        *_table(["setting", "value"], settings),
        "",
    ]
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    filled = [[*row, *[""] * (len(heading) - len(row))] for row in rows]
    return ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in [heading, ["---"] * len(heading), *filled]]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
