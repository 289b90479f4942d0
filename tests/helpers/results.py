"""Results out of random scores, and validations out of made-up outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import torch

from lga_lightning.evaluation.evaluator import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.locators import LayerSweep
from lga_lightning.locators.selection import choose
from lga_lightning.results.attribution import LocatorResult
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
        "choice": choose(scores, resamples=50),
    }
    return LocatorResult(
        aggregate=aggregate,
        num_requests=len(scores),
        num_skipped={"empty target": 2},
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
