"""Find the golden layer of a causal language model, edit facts there, and prove what the edit did.

The public names are loaded when they are first used, so that ``import lga_lightning`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lga_lightning._version import __version__

if TYPE_CHECKING:
    from lga_lightning.callbacks import AdapterWriter, ApplyEdits, EditReport, LayerAttribution, ScoreCollector
    from lga_lightning.data import load_requests
    from lga_lightning.data.formats import Format
    from lga_lightning.data.requests import EditRequest, Probe
    from lga_lightning.editing import (
        EMMET,
        FTL,
        FTM,
        MEMIT,
        PMET,
        ROME,
        RROME,
        AlphaEdit,
        CrispEdit,
        EditMethod,
        Guard,
        Guarded,
        LocFT,
        NormGuard,
        SingularGuard,
        UltraEdit,
        WeightDelta,
    )
    from lga_lightning.editing.session import EditSession
    from lga_lightning.evaluation.config import EvaluationConfig
    from lga_lightning.evaluation.evaluator import Evaluator, evaluate
    from lga_lightning.evaluation.metric import EditMetric
    from lga_lightning.functional import edit, find_golden_layer
    from lga_lightning.job import EditJob
    from lga_lightning.locators import (
        LGA,
        CausalTracing,
        EditForecast,
        FixedLayer,
        LayerLocator,
        LayerSweep,
        MiddleLayer,
        ValueGradient,
    )
    from lga_lightning.locators.race import RaceSettings
    from lga_lightning.models.loading import load_model
    from lga_lightning.models.structure import Structure, register_structure
    from lga_lightning.modules.datamodule import EditDataModule
    from lga_lightning.modules.lga import LGAModule

_PLACES = {
    "AdapterWriter": "callbacks",
    "ApplyEdits": "callbacks",
    "EditReport": "callbacks",
    "LayerAttribution": "callbacks",
    "ScoreCollector": "callbacks",
    "load_requests": "data",
    "EditRequest": "data.requests",
    "Probe": "data.requests",
    "Format": "data.formats",
    "EMMET": "editing",
    "FTL": "editing",
    "FTM": "editing",
    "MEMIT": "editing",
    "PMET": "editing",
    "ROME": "editing",
    "RROME": "editing",
    "AlphaEdit": "editing",
    "CrispEdit": "editing",
    "EditMethod": "editing",
    "Guard": "editing",
    "Guarded": "editing",
    "LocFT": "editing",
    "NormGuard": "editing",
    "SingularGuard": "editing",
    "UltraEdit": "editing",
    "WeightDelta": "editing",
    "EditSession": "editing.session",
    "EvaluationConfig": "evaluation.config",
    "Evaluator": "evaluation.evaluator",
    "evaluate": "evaluation.evaluator",
    "EditMetric": "evaluation.metric",
    "edit": "functional",
    "find_golden_layer": "functional",
    "EditJob": "job",
    "LGA": "locators",
    "CausalTracing": "locators",
    "EditForecast": "locators",
    "FixedLayer": "locators",
    "LayerLocator": "locators",
    "LayerSweep": "locators",
    "MiddleLayer": "locators",
    "ValueGradient": "locators",
    "RaceSettings": "locators.race",
    "Structure": "models.structure",
    "register_structure": "models.structure",
    "load_model": "models.loading",
    "EditDataModule": "modules.datamodule",
    "LGAModule": "modules.lga",
}

__all__ = [
    "EMMET",
    "FTL",
    "FTM",
    "LGA",
    "MEMIT",
    "PMET",
    "ROME",
    "RROME",
    "AdapterWriter",
    "AlphaEdit",
    "ApplyEdits",
    "CausalTracing",
    "CrispEdit",
    "EditDataModule",
    "EditForecast",
    "EditJob",
    "EditMethod",
    "EditMetric",
    "EditReport",
    "EditRequest",
    "EditSession",
    "EvaluationConfig",
    "Evaluator",
    "FixedLayer",
    "Format",
    "Guard",
    "Guarded",
    "LGAModule",
    "LayerAttribution",
    "LayerLocator",
    "LayerSweep",
    "LocFT",
    "MiddleLayer",
    "NormGuard",
    "Probe",
    "RaceSettings",
    "ScoreCollector",
    "SingularGuard",
    "Structure",
    "UltraEdit",
    "ValueGradient",
    "WeightDelta",
    "__version__",
    "edit",
    "evaluate",
    "find_golden_layer",
    "load_model",
    "load_requests",
    "register_structure",
]


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(importlib.import_module(f"lga_lightning.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
