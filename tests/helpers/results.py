"""Result files' contents, made up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import torch

from lga_lightning.evaluation.evaluator import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.locators import LayerSweep
from lga_lightning.locators.selection import choose
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.comparison import Comparison, LocatorRow, SweepResult
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
    columns = {name: scores.mean(0).tolist() for name in LayerSweep.columns[1:]}
    facts = {"locator": "MySweep", "scope": None, "means": columns, "half_widths": columns}
    return locator_result(scores, "mean", **{**facts, **changes})


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
