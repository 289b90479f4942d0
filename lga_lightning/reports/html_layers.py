"""What the page says about the choice of the layer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from lga_lightning.reports.curves import has_curves, mean_curve
from lga_lightning.reports.heatmap import HEAT_MAP_FILE
from lga_lightning.reports.svg import layer_chart
from lga_lightning.reports.svg_curves import curve_chart
from lga_lightning.reports.tables import (
    RELATION_HEADINGS,
    edit_table,
    listed_means,
    number,
    relation_rows,
    settings_rows,
)
from lga_lightning.reports.wording import (
    NOT_SETTLED,
    OUTSIDE_FENCES,
    VERIFY,
    WITHIN_FENCES,
    confidence_set_in_words,
    counted,
    full_verdict,
    headline,
    layers_in_words,
    name_layers,
    relations_verdict,
    remarks,
    score_in_words,
    stability_in_words,
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
    chart = curve_chart if has_curves(result) else layer_chart
    return {
        "headline": headline(result),
        "data": result.data,
        "locator": result.locator,
        "num_requests": result.num_requests,
        "golden": name_layers(result.golden_layers),
        "golden_words": layers_in_words(result.golden_layers).capitalize(),
        "count": len(choice.scores),
        "confidence": stability_in_words(result),
        "confidence_set": confidence_set_in_words(choice),
        "settled": result.settled,
        "not_settled": NOT_SETTLED,
        "way_out": what_would_settle(result),
        "within_fences": choice.fences
        and f"{WITHIN_FENCES}, {number(choice.fences.lower)} to {number(choice.fences.upper)}",
        "outside_fences": OUTSIDE_FENCES if choice.excluded else None,
        "remarks": remarks(result),
        "forecast": _forecast(result) if result.is_forecast or result.verified else None,
        "chart": chart(result, score, sweep),
        "sweep": sweep and _sweep(sweep, result),
        "headings": headings,
        "by_layer": by_layer,
        "by_layer_caption": "Scores by layer"
        if not has_curves(result)
        else f"{'Expected scores' if result.is_forecast else 'Scores'} by layer, in points, with their 95% intervals",
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
    if has_curves(result):
        headings, rows = edit_table(result, whole=True)
        if sweep is None:
            return headings, rows
        swept = [number(100 * score, 1) for score in sweep.choice.scores]
        return [*headings, "sweep"], [[*row, score] for row, score in zip(rows, swept, strict=True)]
    signed = {"signed sum": result.signed_scores} if result.scope and result.aggregate != "sum" else {}
    columns = {
        "score": choice.scores,
        "standard error": choice.standard_errors,
        **signed,
        **{name.replace("_", " "): column for name, column in listed_means(result).items()},
        **({"edits made": result.race.edited} if result.race is not None else {}),
        **({"sweep": sweep.choice.scores} if sweep else {}),
    }
    rows = [
        [
            f"{layer}{' (golden)' * (layer == result.golden_layer)}{' (outside)' * (layer in choice.excluded)}",
            *(number(column[layer]) for column in columns.values()),
        ]
        for layer in range(len(choice.scores))
    ]
    return ["layer", *columns], rows


def _forecast(result: LocatorResult) -> dict[str, Any]:
    """What stands where another locator's result says how often it was chosen."""
    score = f"expected score {mean_curve(result)[1][result.golden_layer]:.1f}, " if result.is_forecast else ""
    known = "not verified" if result.race is None else f"after {counted(result.race.edits, 'edit')}"
    return {
        "tile": score + known,
        "full_verdict": full_verdict(result),
        "verified": result.verified,
        "way_out": VERIFY,
    }


def _sweep(sweep: LocatorResult, result: LocatorResult) -> dict[str, Any]:
    scores, best, golden = sweep.choice.scores, sweep.choice.golden_layer, result.golden_layer
    best_score, golden_score = (
        f"{100 * scores[layer]:.1f}" if result.is_forecast else f"{scores[layer]:.3f}" for layer in (best, golden)
    )
    return {
        "data": sweep.data,
        "num_requests": sweep.num_requests,
        "best": best,
        "best_score": best_score,
        "golden_score": golden_score,
        "golden": golden,
        "is_golden": best == golden,
        "points": f"{100 * (scores[best] - scores[golden]):.1f}",
    }
