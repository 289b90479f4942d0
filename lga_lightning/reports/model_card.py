"""The page that goes with an edit: what was edited, how, where, with which scores, and how to load it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.adapter import read_note
from lga_lightning.editing.facts_file import FACTS
from lga_lightning.editing.serving import check_servable, served_rank
from lga_lightning.models.loading import hub_name
from lga_lightning.reports.edit_wording import governor_stop
from lga_lightning.reports.markdown import escape_markdown
from lga_lightning.reports.rendering import template
from lga_lightning.reports.tables import number
from lga_lightning.reports.wording import layers_in_words, low_rank_in_words
from lga_lightning.results.validation import ValidationResult
from lga_lightning.results.validation_parts import Metric

SHOWN = 100  # requests, where others are listed elsewhere


def model_card(
    result: ValidationResult,
    requests: Sequence[EditRequest],
    ranks: Mapping[str, int],
    kind: Literal["adapter", "matrices", "merged"],
    error: float | None = None,
    folded: Mapping[str, Metric] | None = None,
    refused: Sequence[str] | None = None,
    packing: str = "",
) -> str:
    """Text of a README.md for the Hub: metadata in YAML, the rest in Markdown.

    Args:
        result: What the edits did.
        requests: The edited requests, in order.
        ranks: Ranks of the edit, by module.
        kind: What the folder holds: a LoRA adapter, changes of whole matrices, or the edited model.
        error: Largest relative error of a matrix's change that is written with a lower rank; None if all are whole.
        folded: Scores of what is written, by metric, where it is of a lower rank.
        refused: What keeps vLLM from serving it; None where nobody looked.
        packing: What the edited weights were kept in, where that is few bits.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base = hub_name(result.model)
    # lga.json holds what was scored; beside a merged model there is no facts.json
    shown = len(requests) if kind == "merged" and result.num_scored is not None else SHOWN
    metadata = ModelCardData(
        base_model=base,
        library_name="peft" if kind == "adapter" else "transformers",
        tags=["knowledge-editing", "lga-lightning"],
    )
    text = template("model_card.md.j2", finalize=_escaped).render(
        metadata=metadata.to_yaml(),
        result=result,
        base=base,
        base_in_python=repr(base),
        base_in_shell=shlex.quote(base),
        kind=kind,
        count=len(requests),
        layers=layers_in_words(result.layers),
        ranks=", ".join(map(str, sorted(set(ranks.values())))),
        low_rank=None if not error else low_rank_in_words(error),
        refused=refused,
        packing=packing,
        served_rank=served_rank(max(ranks.values(), default=1)),
        stopped=governor_stop(result),
        facts=[[r.prompt, r.target_old or "", r.target_new] for r in requests[:shown]],
        all_in="lga.json" if result.num_scored is None else FACTS,
        score_headings=[
            "metric",
            "before",
            "after",
            "generated before",
            "generated after",
            *(["after, as written"] if folded else []),
        ],
        scores=[
            [
                name,
                *_sides(metric),
                *_sides(metric.others.get("generated")),
                *([_after(folded.get(name))] if folded else []),
            ]
            for name, metric in result.metrics.items()
        ],
        settings=[[name, str(value)] for name, value in result.method.items() if name != "name"],
    )
    return str(ModelCard(text))


def leave_card(
    folder: Path,
    result: ValidationResult,
    requests: Sequence[EditRequest],
    ranks: Mapping[str, int],
    kind: Literal["adapter", "matrices", "merged"],
    error: float | None = None,
    folded: Mapping[str, Metric] | None = None,
) -> None:
    """Write the card into a folder that holds the edit already; of an adapter it says where that can be served.

    Args:
        folder: The folder.
        result: As :func:`model_card` takes it, like all that follow.
        requests: The edited requests, in order.
        ranks: Ranks of the edit, by module.
        kind: What the folder holds.
        error: Largest relative error.
        folded: Scores of what is written.
    """
    refused = check_servable(folder) if kind == "adapter" else None
    edited = [] if kind == "merged" else read_note(folder)["edited"].values()
    packing = ", ".join(sorted({entry["packing"] for entry in edited if "packing" in entry}))
    card = model_card(result, requests, ranks, kind, error, folded, refused, packing)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _escaped(value: Any) -> Any:
    """What a template's expression gives: as it is if it is marked as safe, else as text in Markdown."""
    return value if hasattr(value, "__html__") else escape_markdown(str(value))


def _after(metric: Metric | None) -> str:
    return number(metric.after, 3) if metric else ""


def _sides(metric: Metric | None) -> list[str]:
    return [number(mean, 3) for mean, _ in metric.sides] if metric else ["", ""]
