"""``report.html``: one page with everything that the result files of a folder hold."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from lga_lightning._version import __version__
from lga_lightning.evaluation.prompts import FAMILIES
from lga_lightning.exceptions import LGAError
from lga_lightning.reports.examples import read_examples
from lga_lightning.reports.heatmap import HEAT_MAP_FILE
from lga_lightning.reports.svg import drift_chart, is_sweep, layer_chart
from lga_lightning.reports.wording import (
    mode_in_words,
    name_layers,
    relations_verdict,
    remarks,
    score_in_words,
    what_would_settle,
)
from lga_lightning.results.attribution import ATTRIBUTION_FILE, SCHEMA, LocatorResult
from lga_lightning.results.validation import REQUESTS_FILE, SIDES, VALIDATION_FILE
from lga_lightning.utils.io import write_text

REPORT_FILE = "report.html"
CONFIGS = {"fit": "lga_fit.yaml", "validate": "lga_validate.yaml"}
RELATIONS_SHOWN = 20
# what a file that somebody changed, or that another version wrote, can make of its reader
UNREADABLE = (LGAError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)

T = TypeVar("T")
Content = dict[str, Any]


def write_report(root: Path) -> None:
    """Write ``report.html`` from the result files in a folder, whichever there are.

    Args:
        root: The folder of a run: ``default_root_dir``.
    """
    write_text(root / REPORT_FILE, render_report(root))


def render_report(root: Path) -> str:
    """The page, as HTML that loads nothing.

    A file that is missing leaves its part out; one that cannot be read is named on the page.

    Args:
        root: The folder of a run.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    notes: list[str] = []

    def part(name: str, make: Callable[[Path], T]) -> T | None:
        path = root / name
        if not path.is_file():
            return None
        try:
            return make(path)
        except UNREADABLE as error:
            notes.append(f"{name} could not be read, so its part is missing: {type(error).__name__}: {error}")
            return None

    attribution = part(ATTRIBUTION_FILE, LocatorResult.load)
    sweep = attribution and _find_sweep(root, attribution)
    layers = part(ATTRIBUTION_FILE, lambda path: _layers(attribution, sweep, root)) if attribution else None
    edits = part(VALIDATION_FILE, lambda path: _edits(json.loads(path.read_text(encoding="utf-8"))))
    examples = part(REQUESTS_FILE, read_examples)
    configs = {verb: part(name, lambda path: path.read_text(encoding="utf-8")) for verb, name in CONFIGS.items()}
    if layers and edits:
        notes += _disagreements(layers, edits)
    environment = Environment(
        loader=PackageLoader("lga_lightning.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        model=(layers or edits or {"model": "no model"})["model"],
        layers=layers,
        edits=edits,
        examples=examples,
        configs={verb: text for verb, text in configs.items() if text},
        config_files=CONFIGS,
        versions=_by_verb({"fit": layers, "validate": edits}),
        notes=notes,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        made_by=__version__,
    )


def _layers(attribution: LocatorResult, sweep: LocatorResult | None, root: Path) -> Content:
    """What the page says about the choice of the layer."""
    choice, found = attribution.choice, attribution.relations
    score = score_in_words(attribution).translate(str.maketrans("", "", "${}"))
    columns = attribution.means if len(attribution.means) <= 4 else {}
    signed = {"signed sum": attribution.signed_scores} if attribution.scope and attribution.aggregate != "sum" else {}
    listed = {"standard error": choice.standard_errors, **signed, **columns}
    heat_map = root / HEAT_MAP_FILE
    by_layer = [
        [
            f"{layer}{' (golden)' * (layer == choice.golden_layer)}{' (outside)' * (layer in choice.excluded)}",
            _number(choice.scores[layer]),
            *(_number(column[layer]) for column in listed.values()),
            *([_number(sweep.choice.scores[layer])] if sweep else []),
        ]
        for layer in range(len(choice.scores))
    ]
    return {
        "model": attribution.model,
        "data": attribution.data,
        "locator": attribution.locator,
        "scope": attribution.scope,
        "aggregate": attribution.aggregate,
        "num_requests": attribution.num_requests,
        "golden": choice.golden_layer,
        "count": len(choice.scores),
        "confidence": f"{choice.confidence:.0%}",
        "confidence_set": ", ".join(map(str, choice.confidence_set)),
        "settled": choice.settled,
        "way_out": None if choice.settled else what_would_settle(attribution),
        "fences": choice.fences and [_number(choice.fences.lower), _number(choice.fences.upper)],
        "excluded": bool(choice.excluded),
        "remarks": remarks(attribution),
        "chart": layer_chart(attribution, score, sweep),
        "is_sweep": is_sweep(attribution),
        "sweep": sweep and _sweep(sweep, choice.golden_layer),
        "headings": ["layer", "score", *(n.replace("_", " ") for n in listed), *(["sweep"] if sweep else [])],
        "by_layer": by_layer,
        "relations": found
        and {
            "rows": [
                [name, str(count), str(layer), f"{confidence:.0%}"]
                for name, count, layer, confidence in zip(
                    found.relations, found.num_requests, found.golden_layers, found.confidences, strict=True
                )
            ][:RELATIONS_SHOWN],
            "more": max(0, len(found.relations) - RELATIONS_SHOWN),
            "verdict": relations_verdict(found),
        },
        "heat_map": base64.b64encode(heat_map.read_bytes()).decode()
        if "mlp.last_subject" in attribution.means and heat_map.is_file()
        else None,
        "settings": _flat(attribution.settings),
        "versions": attribution.versions,
    }


def _find_sweep(root: Path, attribution: LocatorResult) -> LocatorResult | None:
    """The newest sweep of the same model in the folder, or in a folder in it; None if the attribution is one itself."""
    found = [*root.glob("attribution*.json"), *root.glob(f"*/{ATTRIBUTION_FILE}")]
    paths = [path for path in found if path.is_file()]
    for path in [] if is_sweep(attribution) else sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            sweep = LocatorResult.load(path)
            same = sweep.model == attribution.model and len(sweep.choice.scores) == len(attribution.choice.scores)
        except UNREADABLE:
            continue
        if is_sweep(sweep) and same:
            return sweep
    return None


def _sweep(sweep: LocatorResult, golden: int) -> Content:
    scores, best = sweep.choice.scores, sweep.choice.golden_layer
    return {
        "data": sweep.data,
        "num_requests": sweep.num_requests,
        "best": best,
        "best_score": f"{scores[best]:.3f}",
        "golden_score": f"{scores[golden]:.3f}",
        "points": f"{100 * (scores[best] - scores[golden]):.1f}",
    }


def _edits(content: Content) -> Content:
    """What the page says about the edits: the content of ``validation.json``."""
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']}, and {SCHEMA} was expected")
    metrics: dict[str, Content] = content["metrics"]
    accuracies = {name: entry for name, entry in metrics.items() if name.split(".")[0] in FAMILIES}
    others = {name: entry for name, entry in metrics.items() if name not in accuracies}
    kinds = [kind for kind in ("generated", "begins") if any(kind in entry for entry in accuracies.values())]
    protocols = {
        " ".join([name, kind]).strip(): entry["protocol"]
        for name, metric in metrics.items()
        if name.split(".")[0] not in metrics or "." not in name  # the kinds are measured as their family is
        for kind, entry in {"": metric, **{k: metric[k] for k in kinds if k in metric}}.items()
    }
    drift = content.get("drift") or []
    return {
        "model": content["model"],
        "data": content["data"],
        "layers": content["layers"],
        "layer": name_layers(content["layers"]),
        "layer_source": content["layer_source"],
        "method": content["method"]["name"],
        "settings": _flat({k: v for k, v in content["method"].items() if k != "name"}),
        "mode": mode_in_words(content),
        "num_requests": content["num_requests"],
        "skipped": [f"{count} ({reason})" for reason, count in content["num_skipped"].items() if count],
        "intervals": content["intervals"],
        "kinds": ["token accuracy", *kinds],
        "rows": [
            _row(name, [entry, *(entry.get(k, {}) for k in kinds)], metrics) for name, entry in accuracies.items()
        ],
        "others": [_row(name, [entry], {}) for name, entry in others.items()],
        "protocols": protocols,
        "tiles": [_tile(name, accuracies[name]) for name in FAMILIES if name in accuracies],
        "drift": _drift(drift) if drift else None,
        "versions": content["versions"],
    }


def _row(name: str, entries: Sequence[Content], metrics: Mapping[str, Any]) -> Content:
    """A row of the table of scores: pairs of a mean and its interval, before and after."""
    family, _, kind = name.partition(".")
    cells = [
        (_number(e[side], 3), "…".join(_number(end, 2) for end in e[f"{side}_ci"])) if side in e else ("", "")
        for e in entries
        for side in SIDES
    ]
    part = bool(kind) and family in metrics
    return {"name": kind.replace("_", " ") if part else name, "part": part, "cells": cells}


def _tile(name: str, entry: Content) -> Content:
    """The number of a metric that a person should look at first: that of the model's own words."""
    own = entry.get("generated")
    return {
        "name": name,
        "value": f"{(own or entry)['after']:.0%}",
        "before": None if name == "locality" else f"{(own or entry)['before']:.0%}",
        "what": {"locality": "unchanged"}.get(name, "right") + (", in its own words" if own else ", teacher-forced"),
        "token": f"{entry['after']:.0%}" if own else None,
    }


def _drift(points: Sequence[Content]) -> Content:
    edits = [point["edits"] for point in points]
    names = [name for name in points[-1] if name not in ("edits", "relative_change")]
    drawn = {name: [point.get(name) for point in points] for name in names if name in FAMILIES}
    return {
        "chart": drift_chart(edits, drawn) if len(points) > 1 and drawn else None,
        "headings": ["edits", *names, "largest change of a weight"],
        "rows": [
            [
                str(point["edits"]),
                *(_number(point.get(name), 3) for name in names),
                f"{max(point['relative_change'].values(), default=0.0):.1%}",
            ]
            for point in points
        ],
    }


def _disagreements(layers: Content, edits: Content) -> list[str]:
    """What a reader must know of files that were not made of one piece."""
    if layers["model"] != edits["model"]:
        return [
            f"The layer is one of {layers['model']}, but the edits are of {edits['model']}: two runs share this folder."
        ]
    if layers["golden"] not in edits["layers"]:
        return [
            f"The edits were made at layer{'s' * (len(edits['layers']) > 1)} {edits['layer']} ({edits['layer_source']}), not at the golden layer {layers['golden']}."
        ]
    return []


def _by_verb(parts: Mapping[str, Content | None]) -> Content:
    """Versions as a table: a column for each file that names some."""
    found = {verb: part["versions"] for verb, part in parts.items() if part}
    names = list(dict.fromkeys(name for versions in found.values() for name in versions))
    return {"verbs": list(found), "rows": [[name, *(v.get(name, "") for v in found.values())] for name in names]}


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Settings as pairs, those within others under both names."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        nested = isinstance(value, Mapping)
        rows += _flat(value, f"{before}{name}.") if nested else [(f"{before}{name}", str(value))]
    return rows


def _number(value: float | None, decimals: int | None = None) -> str:
    if value is None or value != value:
        return "n/a"
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.4g}"
