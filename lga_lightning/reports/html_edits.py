"""What the page says about the edits."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from lga_lightning.evaluation.prompts import FAMILIES, PROBES, family_of
from lga_lightning.reports.edit_wording import first_look, governor_remarks, remarks_on_words, warnings
from lga_lightning.reports.svg import drift_chart
from lga_lightning.reports.tables import (
    ABILITY_HEADINGS,
    ability_rows,
    cohort_label,
    cohort_table,
    drift_table,
    growth_table,
    metric_label,
    number,
    settings_rows,
)
from lga_lightning.reports.wording import how_to_read, layers_in_words, mode_in_words, skipped_in_words
from lga_lightning.results.ability import AbilityResult
from lga_lightning.results.retention import Cohort
from lga_lightning.results.validation import ValidationResult
from lga_lightning.results.validation_parts import DriftPoint, Metric


def describe_edits(result: ValidationResult) -> dict[str, Any]:
    """The part of the edits, for the page's template.

    Args:
        result: What the edits did.
    """
    metrics = result.metrics
    accuracies = {name: metric for name, metric in metrics.items() if family_of(name) in (*FAMILIES, *PROBES)}
    others = {name: metric for name, metric in metrics.items() if name not in accuracies}
    kinds = list(dict.fromkeys(kind for metric in accuracies.values() for kind in metric.others))
    return {
        "model": result.model,
        "data": result.data,
        "layers": layers_in_words(result.layers),
        "layer_source": result.layer_source,
        "method": result.method["name"],
        "settings": settings_rows({name: value for name, value in result.method.items() if name != "name"}),
        "mode": mode_in_words(result),
        "num_requests": result.num_requests,
        "skipped": skipped_in_words(result),
        "intervals": result.intervals,
        "how_to_read": how_to_read(result),
        "remarks": [*remarks_on_words(result), *governor_remarks(result)],
        "warnings": warnings(result),
        "measured": settings_rows(result.evaluation or {}),
        "kinds": ["token accuracy", *(kind.replace("_", " ") for kind in kinds)],
        "rows": [_row(name, [metric, *map(metric.others.get, kinds)], metrics) for name, metric in accuracies.items()],
        "others": [_row(name, [metric], ()) for name, metric in others.items()],
        "protocols": _protocols(result),
        "tiles": [_tile(name, accuracies[name]) for name in FAMILIES if name in accuracies],
        "drift": _drift(result.drift) if result.drift else None,
        "cohorts": _cohorts(cohorts) if (cohorts := [c for c in result.cohorts or [] if c.points]) else None,
        "growth": growth_table(result.growth) if result.growth else None,
        "abilities": [_ability(*pair) for pair in _abilities(result)],
    }


def _protocols(result: ValidationResult) -> dict[str, str]:
    """What each number means; the kinds of a family are measured as the family is."""
    found = {}
    for name, metric in result.metrics.items():
        if not metric_label(name, result.metrics)[1]:
            found[name] = metric.protocol
            found |= {f"{name} {kind.replace('_', ' ')}": other.protocol for kind, other in metric.others.items()}
    return found


def _row(name: str, metrics: Sequence[Metric | None], names: Collection[str]) -> dict[str, Any]:
    """A row of the table of scores: pairs of a mean and its interval, before and after."""
    cells: list[tuple[str, str]] = []
    for metric in metrics:
        if metric is None:
            cells += [("", "")] * 2
        else:
            cells += [(number(mean, 3), "…".join(number(end, 2) for end in ends)) for mean, ends in metric.sides]
    label, is_part = metric_label(name, names)
    return {"name": label, "part": is_part, "cells": cells}


def _tile(name: str, metric: Metric) -> dict[str, Any]:
    """The number of a metric that a person should look at first: that of the model's own words."""
    shown = first_look(metric)
    own, unchanged = shown is not metric, shown in (metric, metric.others.get("generated")) and name == "locality"
    return {
        "name": name,
        "value": f"{shown.after:.0%}",
        "before": None if unchanged else f"{shown.before:.0%}",
        "what": ("unchanged" if unchanged else "right") + (", in its own words" if own else ", teacher-forced"),
        "token": f"{metric.after:.0%}" if own else None,
    }


def _drift(points: Sequence[DriftPoint]) -> dict[str, Any]:
    headings, rows = drift_table(points)
    drawn = {
        name: [point.scores.get(name, float("nan")) for point in points]
        for name in points[-1].scores
        if name in FAMILIES
    }
    chart = drift_chart([point.edits for point in points], drawn) if len(points) > 1 and drawn else None
    return {"chart": chart, "headings": headings, "rows": rows}


def _cohorts(cohorts: Sequence[Cohort]) -> dict[str, Any]:
    """What became of early facts: a chart for each family of prompts, a curve for each cohort."""
    headings, rows = cohort_table(cohorts)
    edits = sorted({point.edits for cohort in cohorts for point in cohort.points})
    charts = []
    for family in FAMILIES:
        columns = {}
        for cohort in cohorts:
            found = {point.edits: point.scores.get(family, math.nan) for point in cohort.points}
            columns[f"facts {cohort_label(cohort)}"] = [found.get(count, math.nan) for count in edits]
        if len(edits) > 1 and any(math.isfinite(value) for column in columns.values() for value in column):
            charts.append((family, drift_chart(edits, columns, f"token accuracy, {family}")))
    return {"charts": charts, "headings": headings, "rows": rows}


def _abilities(result: ValidationResult) -> list[tuple[str, AbilityResult]]:
    found = {"General ability": result.general, "lm-evaluation-harness": result.harness}
    return [(title, ability) for title, ability in found.items() if ability is not None]


def _ability(title: str, result: AbilityResult) -> dict[str, Any]:
    return {
        "title": title,
        "asked": result.asked,
        "edited": result.edited,
        "headings": ABILITY_HEADINGS,
        "rows": ability_rows(result),
        "protocols": {name: score.protocol for name, score in result.scores.items()},
    }
