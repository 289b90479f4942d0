"""``attribution.json``: a golden layer with all that led to it."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from lga_lightning.exceptions import LayerError
from lga_lightning.locators.aggregation import RelationLayers
from lga_lightning.locators.selection import Choice, Fences
from lga_lightning.utils.io import write_json

ATTRIBUTION_FILE = "attribution.json"
SCHEMA = 1


@dataclass(frozen=True)
class LocatorResult:
    """A golden layer with all that led to it; the content of ``attribution.json``.

    Attributes:
        model: Name of the model, as the user gave it.
        data: Name of the proxy set.
        locator: Class name of the locator.
        scope: Which parameters of a block counted; None for a locator without scopes.
        aggregate: How the requests were added up.
        num_requests: How many requests counted.
        num_skipped: How many did not, by reason.
        choice: Scores, fences, golden layer and confidence.
        signed_scores: [L] sums of the signed scores, whatever the aggregate.
        means: [L] a name: means over requests of the locator's other columns (cosine, old_norm, new_norm).
        versions: Versions of the packages that made it.
        settings: All that the locator's evidence depends on.
        half_widths: [L] a name: 1.96 sigma / sqrt(n) of each of the means.
        requests_to_settle: About how many requests would settle the choice; None where it is settled, or there is no telling.
        stopped_early: ``{"after": 64, "of": 129, "confidence": 0.95}`` for a run that ended before its last request.
        relations: A layer for each relation, where the data has relations.
        seconds: How long the scores took; None where nobody looked.
        neighbours: How many layers on either side shared their evidence.
    """

    model: str
    data: str
    locator: str
    scope: str | None
    aggregate: str
    num_requests: int
    num_skipped: dict[str, int]
    choice: Choice
    signed_scores: list[float]
    means: dict[str, list[float]]
    versions: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    half_widths: dict[str, list[float]] = field(default_factory=dict)
    requests_to_settle: int | None = None
    stopped_early: dict[str, float] | None = None
    relations: RelationLayers | None = None
    seconds: float | None = None
    neighbours: int = 0

    def save(self, path: Path) -> None:
        """Write the file, whole."""
        content = asdict(self)
        choice, means, versions = content.pop("choice"), content.pop("means"), content.pop("versions")
        scores, errors = choice.pop("scores"), choice.pop("standard_errors")
        signed = content.pop("signed_scores")
        by_layer = {"scores": scores, "standard_errors": errors, "signed_scores": signed, **means}
        write_json(path, {"schema": SCHEMA, **content, **by_layer, **choice, "versions": versions})

    @classmethod
    def load(cls, path: Path) -> LocatorResult:
        """Read a file.

        Raises:
            LayerError: If there is no such file, or it is not an attribution.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LayerError(
                f"There is no attribution at {str(path)!r}. Run `lga fit` first (with the same --trainer.default_root_dir), "
                "or give --model.layer a number, `golden`, or the path of an attribution.json."
            ) from error
        except ValueError as error:
            raise LayerError(f"{str(path)!r} is not valid JSON: {error}. Run `lga fit` again.") from error
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise LayerError(f"{str(path)!r} is not an attribution of schema {SCHEMA}. Run `lga fit` again.")
        try:
            choice = {f.name: content.pop(f.name) for f in fields(Choice)}
            choice["fences"] = Fences(**choice["fences"]) if choice["fences"] else None
            named = {
                f.name: content.pop(f.name)
                for f in fields(cls)
                # what has a default came later: older files lack it
                if f.name not in ("choice", "means")
                and (f.name in content or f.default_factory is f.default is MISSING)
            }
            if named.get("relations"):
                named["relations"] = RelationLayers(**named["relations"])
        except (KeyError, TypeError) as error:
            raise LayerError(f"{str(path)!r} lacks the field {error}. Run `lga fit` again.") from error
        return cls(choice=Choice(**choice), means=content, **named)


def means_by_layer(values: Tensor, columns: tuple[str, ...]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Means over requests of all columns but the first, the score, and 1.96 sigma / sqrt(n) of each.

    Args:
        values: [N, C, L] evidence, NaN where a request says nothing.
        columns: The names of the C columns.
    """
    means, half_widths = {}, {}
    for column, name in enumerate(columns[1:], start=1):
        found = values[:, column].double()
        count = found.isfinite().sum(0)
        mean = found.nanmean(0)
        variance = ((found - mean) ** 2).nansum(0) / (count - 1)  # NaN or infinite for a single request
        means[name], half_widths[name] = mean.tolist(), (1.96 * (variance / count).sqrt()).tolist()
    return means, half_widths
