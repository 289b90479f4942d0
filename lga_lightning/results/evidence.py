"""``evidence.safetensors``: a locator's evidence by request, so that what was scored once is not scored again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lga_lightning.exceptions import DataError
from lga_lightning.utils.checksums import load_tensors, save_tensors

EVIDENCE_FILE = "evidence.safetensors"


@dataclass(frozen=True)
class LocatorEvidence:
    """A locator's evidence on N requests, on the CPU.

    Attributes:
        index: [N] positions of the requests in their data set.
        values: [N, C, L] the locator's columns, the score first.
        status: [N] 0 for a request that counts.
        seconds: Time that the scores took.
        made_with: Everything that they depend on, by name.
    """

    index: Tensor
    values: Tensor
    status: Tensor
    seconds: float
    made_with: dict[str, str]

    @property
    def evidence(self) -> Tensor:
        """[M, C, L] the columns of the M requests that count."""
        return self.values[self.status == 0]

    @property
    def scores(self) -> Tensor:
        """[M, L] the score of each request that counts, at each layer."""
        return self.evidence[:, 0]

    def save(self, path: Path) -> None:
        """Write the file, whole."""
        tensors = {name: getattr(self, name) for name in ("index", "values", "status")}
        save_tensors(path, tensors, {"seconds": repr(self.seconds), "made_with": json.dumps(self.made_with)})

    @classmethod
    def load(cls, path: Path) -> LocatorEvidence:
        """Read a file.

        Raises:
            DataError: If it is broken.
        """
        try:
            tensors, note = load_tensors(path)
            return cls(**tensors, seconds=float(note["seconds"]), made_with=json.loads(note["made_with"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{str(path)!r} does not hold a locator's scores, or it is broken ({error}). Delete it, and they are made anew."
            ) from error
