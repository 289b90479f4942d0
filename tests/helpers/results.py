"""Result files' contents, made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice

import torch

from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.locators.selection import choose
from lga_lightning.results.attribution import LocatorResult, means_by_layer
from lga_lightning.results.comparison import Comparison, LocatorRow, SweepResult
from lga_lightning.results.race import RaceResult
from lga_lightning.results.regret import Candidate, LayerRegret, RegretPoint
from lga_lightning.results.validation import ValidationResult
from tests.helpers.models import requests


def locator_result(scores: torch.Tensor, aggregate: str = "sum", **changes: object) -> LocatorResult:
    """A result of LGA with the given [N, L] scores."""
    mean = scores.mean(0).tolist()
    facts = {
        "model": "m",
        "data": "d",
        "locator": "LGA",
        "scope": "mlp",
        "means": {"cosine": mean},
        "half_widths": {"cosine": mean},
        "versions": {},
        "num_skipped": {"empty target": 2},
        "choice": choose(scores, resamples=50),
    }
    return LocatorResult(
        aggregate=aggregate,
        num_requests=len(scores),
        signed_scores=scores.sum(0).tolist(),
        **{**facts, **changes},
    )


def sweep_result(scores: torch.Tensor, **changes: object) -> LocatorResult:
    """A result of somebody's own sweep with the given [N, L] scores."""
    columns = {name: scores.mean(0).tolist() for name in PARTS}
    choice = choose(scores / len(scores), kappa=None, resamples=50)
    facts = {"locator": "MySweep", "scope": None, "means": columns, "half_widths": columns, "choice": choice}
    return locator_result(scores, "mean", **{**facts, **changes})


def partial_sweep(parts: torch.Tensor, layers: Sequence[int], **changes: object) -> LocatorResult:
    """A sweep that edited at some layers alone, and had the given [N, 3, L] scores of rewrite, rephrase and locality there."""
    edited = torch.zeros(parts.shape[-1], dtype=torch.bool).index_fill(0, torch.tensor(layers), True)
    parts = parts.where(edited, torch.nan)
    scores = parts.mean(1).nan_to_num()
    means, half_widths = means_by_layer(torch.cat([scores.unsqueeze(1), parts], 1), ("scores", *PARTS))
    return sweep_result(scores, **{"means": means, "half_widths": half_widths, **changes})


def forecast_result(parts: torch.Tensor, **changes: object) -> LocatorResult:
    """A forecast that expects the given [N, 3, L] scores of rewrite, rephrase and locality, and has a column of its own."""
    scores = parts.nanmean(1)
    values = torch.cat([scores.unsqueeze(1), parts, 9 * parts[:, :1]], 1)
    means, half_widths = means_by_layer(values, ("scores", *(f"expected_{part}" for part in PARTS), "reach"))
    choice = choose(scores / len(scores), kappa=None, resamples=50)
    facts = {"locator": "EditForecast", "scope": None, "means": means, "half_widths": half_widths, "choice": choice}
    return locator_result(scores, "mean", **{**facts, **changes})


def likely_parts(count: int, layers: int, seed: int = 0) -> torch.Tensor:
    """Scores [N, 3, L] as edits have them: they take less and less in deep layers, and spare more and more."""
    depth, noise = torch.linspace(0, 1, layers), torch.Generator().manual_seed(seed)
    curves = torch.stack([0.98 - 0.6 * depth**6, 0.7 - 0.65 * depth**2, 0.45 + 0.5 * depth**0.6])
    level = 0.12 * torch.randn(count, 3, 1, generator=noise)
    return (curves + level + 0.1 * torch.randn(count, 3, layers, generator=noise)).clamp(0, 1)


def race_result(layer: int, edited: Sequence[int], seed: int = 1, **changes: object) -> RaceResult:
    """A race that a layer has won, with so many edits at each."""
    means = likely_parts(40, len(edited), seed).mean(0)
    parts = {
        part: [value if count else math.nan for value, count in zip(column, edited, strict=True)]
        for part, column in zip(PARTS, means.tolist(), strict=True)
    }
    scores = (100 * means.mean(0)).tolist()
    facts = {
        "layers": [layer],
        "layer": layer,
        "confidence": 0.96,
        "tolerance": 1.0,
        "settled": True,
        "ended": "settled",
        "edits": sum(edited),
        "seconds": 61.25,
        "requests": max(edited),
        "edited": list(edited),
        "scores": scores,
        "intervals": [(score - 3, score + 3) for score in scores],
        "parts": parts,
        "editor": {"name": "R-ROME"},
        "settings": {"budget": None},
    }
    return RaceResult(**{**facts, **changes})


def validation(outcomes: Sequence[Sequence[EvalResult]], **changes: object) -> ValidationResult:
    """What edits did, out of the outcomes of their questions."""
    facts = {
        "model_name": "m",
        "data_name": "d",
        "layers": [3],
        "layer_source": "given",
        "method": {"name": "ROME"},
        "mode": "independent",
        "skipped": {},
        "evaluation": EvaluationConfig(),
        "resamples": 10,
    }
    asked = [*islice(cycle(requests()), len(outcomes))]
    return ValidationResult.build(asked, outcomes, **{**facts, **changes})


def comparison(
    model: str = "m", name: str = "LGA", data: str = "d", parts: dict[str, list[float]] | None = None
) -> Comparison:
    """One locator on one test set, in a model of two layers."""
    regret = LayerRegret(1, 50.0, (40.0, 60.0), 2.0, (0.0, 5.0), 8.0, (4.0, 9.0), 1)
    sweep = SweepResult(data, 20, 90.0, [52.0, 50.0], parts or {"rewrite": [50.0, 40.0]}, 0, 58.0, own_layer=1)
    row = LocatorRow(
        name, 1, 0.75, 10, 1.5, 60.0, [regret], [RegretPoint(5, 0.5, 3.0)], {"class": "LGA", "scope": "mlp"}
    )
    candidate = Candidate("mlp", "dot", "sum", None, 0, 1, 0.75, 2.0, 3.0, 10)
    return Comparison(model, data, {"name": "ROME"}, [sweep], [row], [candidate], {"torch": "9.9"})
