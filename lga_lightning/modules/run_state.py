"""Where a run of edits stands, on disk: so that the same command goes on after it was cut off."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lga_lightning._version import __version__
from lga_lightning.editing import EditMethod
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.models.weights import weights_hash
from lga_lightning.utils.checksums import load_tensors, save_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

STATE_FILE = "sequential.safetensors"
RESULTS_FILE = "independent.{rank}.safetensors"
_NOTES = "lga"


@dataclass(frozen=True)
class RunState:
    """The file in which a run leaves its state; it appears whole or not at all, so that it is always the one of some group.

    Attributes:
        path: The file.
        fingerprint: Everything that the run's edits depend on, by name. A file with another one is not taken up.
        every: Number of groups after which the state is written; 0 for never.
        writes: Whether this process writes; of several that make the same edits, one does. All of them read.
        parts: A pattern for the names of the files of all processes, where each leaves its own; "" where there is but the one.
    """

    path: Path
    fingerprint: Mapping[str, str]
    every: int
    writes: bool = True
    parts: str = ""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors by name and notes, as they were saved; None where there is nothing to go on from."""
        return next(self.load_parts(), None)

    def load_parts(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """What each process has saved; of any number of processes."""
        for path in self._files() if self.every else ():
            found = self._read(path)
            if found is not None:
                rank_zero_info(f"Going on from {path}.")
                yield found

    def _files(self) -> list[Path]:
        files = sorted(self.path.parent.glob(self.parts)) if self.parts else [self.path]
        return [path for path in files if path.is_file()]

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        try:
            tensors, told = load_tensors(path)
            found = json.loads(told[_NOTES])
            before, notes = found["fingerprint"], found["notes"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.warning("%s could not be read (%s), so the edits begin anew.", path, error)
            return None
        differing = [name for name in {**before, **self.fingerprint} if before.get(name) != self.fingerprint.get(name)]
        if differing:
            log.warning(
                "%s is of another run (it differs in: %s), so the edits begin anew. It will be overwritten.",
                path,
                ", ".join(differing),
            )
            return None
        return tensors, notes

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write the state.

        Args:
            tensors: Tensors by name.
            notes: Whatever else JSON can say.
        """
        if not self.writes:
            return
        told = json.dumps({"fingerprint": dict(self.fingerprint), "notes": notes})
        save_tensors(self.path, tensors, {_NOTES: told})

    def remove(self) -> None:
        """Remove the file, or those of all processes: the run is over, and its results are written."""
        for path in self._files() if self.writes and self.every else ():
            path.unlink(missing_ok=True)


def fingerprint_of(
    editor: EditMethod, model: PreTrainedModel, layers: Sequence[int], evaluation: EvaluationConfig, **more: object
) -> dict[str, str]:
    """Everything that a run's edits and the scores on their way depend on, by name.

    Args:
        editor: How facts are edited.
        model: A causal language model, unedited.
        layers: The blocks to edit.
        evaluation: What is measured.
        more: Whatever else they depend on, by name.
    """
    names = [metric.name for metric in evaluation.metrics]
    asked = evaluation.families, evaluation.passages, names, *evaluation.probes
    return {
        "version of lga-lightning": __version__,
        "method": json.dumps(editor.settings(model), sort_keys=True, default=str),
        "layers": str(list(layers)),
        "dtype": str(model.dtype),
        "weights": weights_hash(model),
        "evaluation": hashlib.sha256(repr(asked).encode()).hexdigest(),
        **{name: str(value) for name, value in more.items()},
    }
