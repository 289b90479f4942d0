"""What the page says about the choice of the layer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from lga_lightning.reports.heatmap import HEAT_MAP_FILE
from lga_lightning.reports.svg import layer_chart
from lga_lightning.reports.tables import RELATION_HEADINGS, listed_means, number, relation_rows, settings_rows
from lga_lightning.reports.wording import (
    NOT_SETTLED,
    OUTSIDE_FENCES,
    WITHIN_FENCES,
    confidence_in_words,
    confidence_set_in_words,
    headline,
    relations_verdict,
    remarks,
    score_in_words,
    what_would_settle,
)
from lga_lightning.results.attribution import LocatorResult

RELATIONS_SHOWN = 20


def describe_layers(result: LocatorResult, sweep: LocatorResult | None, root: Path) -> dict[str, Any]:
    """The part of a result, for the page's template.

    Args:
        result: Scores of the layers, and the choice.
        sweep: A sweep of the same model.
        root: Folder of the run, for its heat map.
    """
    choice, found = result.choice, result.relations
    score = score_in_words(result).translate(str.maketrans("", "", "${}"))
    heat_map = root / HEAT_MAP_FILE
    headings, by_layer = _numbers(result, sweep)
    return {
        "headline": headline(result),
        "data": result.data,
        "locator": result.locator,
        "num_requests": result.num_requests,
        "golden": choice.golden_layer,
        "count": len(choice.scores),
        "confidence": confidence_in_words(choice),
        "confidence_set": confidence_set_in_words(choice),
        "settled": choice.settled,
        "not_settled": NOT_SETTLED,
        "way_out": what_would_settle(result),
        "within_fences": choice.fences
        and f"{WITHIN_FENCES}, {number(choice.fences.lower)} to {number(choice.fences.upper)}",
        "outside_fences": OUTSIDE_FENCES if choice.excluded else None,
        "remarks": remarks(result),
        "chart": layer_chart(result, score, sweep),
        "sweep": sweep and _sweep(sweep, choice.golden_layer),
        "headings": headings,
        "by_layer": by_layer,
        "relations": found
        and {
            "headings": RELATION_HEADINGS,
            "rows": relation_rows(found)[:RELATIONS_SHOWN],
            "more": max(0, len(found.relations) - RELATIONS_SHOWN),
            "verdict": relations_verdict(found),
        },
        "heat_map": base64.b64encode(heat_map.read_bytes()).decode()
        if result.has_heat_map and heat_map.is_file()
        else None,
        "settings": settings_rows(result.settings),
    }


def _numbers(result: LocatorResult, sweep: LocatorResult | None) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of all layers."""
    choice = result.choice
    signed = {"signed sum": result.signed_scores} if result.scope and result.aggregate != "sum" else {}
    columns = {
        "score": choice.scores,
        "standard error": choice.standard_errors,
        **signed,
        **{name.replace("_", " "): column for name, column in listed_means(result).items()},
        **({"sweep": sweep.choice.scores} if sweep else {}),
    }
    rows = [
        [
            f"{layer}{' (golden)' * (layer == choice.golden_layer)}{' (outside)' * (layer in choice.excluded)}",
            *(number(column[layer]) for column in columns.values()),
        ]
        for layer in range(len(choice.scores))
    ]
    return ["layer", *columns], rows


def _sweep(sweep: LocatorResult, golden: int) -> dict[str, Any]:
    scores, best = sweep.choice.scores, sweep.choice.golden_layer
    return {
        "data": sweep.data,
        "num_requests": sweep.num_requests,
        "best": best,
        "best_score": f"{scores[best]:.3f}",
        "golden_score": f"{scores[golden]:.3f}",
        "points": f"{100 * (scores[best] - scores[golden]):.1f}",
    }
