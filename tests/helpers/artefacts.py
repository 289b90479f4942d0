"""All that we write for others or ourselves to read: how it is written, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lga_lightning.callbacks.checkpoint import FINGERPRINT, check_checkpoint
from lga_lightning.covariance.store import CovarianceKey, load_layer, save_layer
from lga_lightning.editing import WeightDelta
from lga_lightning.editing.updates import DenseUpdate
from lga_lightning.exceptions import DataError
from lga_lightning.modules.run_state import RunState
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.comparison import Comparison
from lga_lightning.results.evidence import LocatorEvidence
from lga_lightning.results.validation import ValidationResult
from tests.editing.helpers import delta_for
from tests.helpers.models import tiny_model
from tests.helpers.results import comparison, forecast_result, likely_parts, race_result, validation

KEY = CovarianceKey("m", None, "w", "t", "torch.float32", "text", "hash", 100, 16)


def write_attribution(path: Path) -> None:
    forecast_result(likely_parts(5, 4), race=race_result(2, [3, 1, 4, 0])).save(path / "attribution.json")


def write_checkpoint(path: Path) -> None:
    content = {FINGERPRINT: {"model": "m"}, "callbacks": {"scores": torch.randn(4, 3)}}
    torch.save(content, path / "attribution.ckpt")


def read_checkpoint(path: Path) -> Any:
    check_checkpoint(path / "attribution.ckpt")
    return torch.load(path / "attribution.ckpt", weights_only=True)


def write_state(path: Path) -> None:
    RunState(path / "state", {"model": "m"}, 1).save({"a": torch.randn(3, 2)}, {"seen": [1, 2]})


def read_state(path: Path) -> Any:
    found = RunState(path / "state", {"model": "m"}, 1).load()
    if found is None:  # said in a warning; the edits begin anew
        raise DataError("begin anew")
    return found


def write_evidence(path: Path) -> None:
    LocatorEvidence(torch.arange(3), torch.randn(3, 2, 4), torch.zeros(3), 1.5, {"model": "m"}).save(path / "evidence")


def write_adapter(path: Path) -> None:
    model = tiny_model("llama")
    delta_for(model, {1: 2, 2: 1}, dtype=torch.float32).save_pretrained(path / "a", model, overwrite=True)


def write_dense(path: Path) -> None:
    model = tiny_model("llama")
    dense = {name: DenseUpdate(update.matrix) for name, update in delta_for(model, {1: 2}).updates.items()}
    WeightDelta(dense).save_pretrained(path / "a", model, overwrite=True)


ARTEFACTS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "attribution": (write_attribution, lambda path: LocatorResult.load(path / "attribution.json")),
    "validation": (
        lambda path: validation([[]] * 2).save(path / "validation.json"),
        lambda path: ValidationResult.load(path / "validation.json"),
    ),
    "comparison": (lambda path: comparison().save(path), lambda path: Comparison.load(path)),
    "checkpoint": (write_checkpoint, read_checkpoint),
    "state": (write_state, read_state),
    "evidence": (write_evidence, lambda path: LocatorEvidence.load(path / "evidence")),
    "moments": (
        lambda path: save_layer(path / "3", 3, KEY, {"moment": torch.randn(4, 4)}, 50),
        lambda path: load_layer(path / "3", 3, KEY, ["moment"]),
    ),
    "adapter": (write_adapter, lambda path: WeightDelta.load(path / "a")),
    "dense edit": (write_dense, lambda path: WeightDelta.load(path / "a")),
}
