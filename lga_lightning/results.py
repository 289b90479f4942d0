"""The result files: ``attribution.json``, and the outcomes of questions in ``requests.parquet``."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from lga_lightning._version import __version__
from lga_lightning.aggregation import RelationLayers
from lga_lightning.attribution import Choice, Fences
from lga_lightning.errors import LayerError
from lga_lightning.files import write_json, write_whole
from lga_lightning.outcomes import MEASURES, Outcome

SIDES = ("before", "after")
ATTRIBUTION_FILE = "attribution.json"
VALIDATION_FILE = "validation.json"
REQUESTS_FILE = "requests.parquet"
SCHEMA = 1


@dataclass(frozen=True)
class Attribution:
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
    def load(cls, path: Path) -> Attribution:
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


def write_outcomes(path: Path, index: Sequence[int], ids: Sequence[str], outcomes: Sequence[Sequence[Outcome]]) -> None:
    """Write a Parquet file with one row a question: its text, what the model said, and its scores, before and after.

    Args:
        path: Where the file is to appear, whole.
        index: N positions of the requests in their data set.
        ids: N ids of the requests.
        outcomes: N requests' outcomes.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows = []
    for place, name, of_request in zip(index, ids, outcomes, strict=True):
        for outcome in of_request:
            row = {"index": place, "id": name, **asdict(outcome)}
            scores, said = row.pop("scores"), row.pop("said") or (None, None)
            row |= {f"said_{side}": words for side, words in zip(SIDES, said, strict=True)}
            row |= {
                f"{measure}_{side}": scores.get(measure, (None, None))[i]
                for measure in MEASURES
                for i, side in enumerate(SIDES)
            }
            rows.append(row)
    said_columns = [(f"said_{side}", pa.string()) for side in SIDES]
    numbers = [(f"{measure}_{side}", pa.float64()) for measure in MEASURES for side in SIDES]
    words = [("id", pa.string()), ("group", pa.string()), ("prompt", pa.string()), ("answers", pa.list_(pa.string()))]
    table = pa.Table.from_pylist(rows, pa.schema([("index", pa.int64()), *words, *said_columns, *numbers]))
    write_whole(path, lambda scratch: parquet.write_table(table, scratch))


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


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    packages = ("torch", "lightning", "transformers", "torchmetrics")
    ours = {"lga-lightning": __version__, "python": platform.python_version()}
    return ours | {name: importlib.metadata.version(name) for name in packages}


def find_layers(layer: int | str | Sequence[int], root: Path, model: str, window: int = 1) -> tuple[list[int], str]:
    """What layers are meant by a number, several, a range, ``"golden"``, or the path of an ``attribution.json``.

    Args:
        layer: The user's word: ``5``, ``[4, 5, 6]``, ``"4-8"``, ``"golden"``, or a path.
        root: Folder in which ``fit`` left its attribution.
        model: Name of the model that is to be edited.
        window: How many layers the editing method wants for ``golden``; see :func:`golden_window`.

    Returns:
        The layers' indices, ascending, and where they come from, in words.

    Raises:
        LayerError: If there is no such file, it was made for another model, or the word means nothing.
    """
    if not isinstance(layer, int | str):
        return sorted(layer), "given"
    if isinstance(layer, int) or re.fullmatch("-?[0-9]+", layer):
        return [int(layer)], "given"
    if match := re.fullmatch("([0-9]+)-([0-9]+)", layer):
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise LayerError(f"The range of layers {layer!r} is empty. Write the shallower one first, as in 4-8.")
        return list(range(first, last + 1)), "given"
    path = root if layer == "golden" else Path(layer).expanduser()
    path = path / ATTRIBUTION_FILE if path.is_dir() or layer == "golden" else path
    attribution = Attribution.load(path)
    if attribution.model != model and not _same_folder(attribution.model, model):
        raise LayerError(
            f"{str(path)!r} was made for the model {attribution.model!r}, not for {model!r}: a golden layer holds for one "
            "model. Run `lga fit` for this one, or give --model.layer a number."
        )
    if window == 1:
        return [attribution.choice.golden_layer], f"golden layer of {path}"
    return golden_window(attribution.choice, window), f"golden window of {path}"


def golden_window(choice: Choice, window: int) -> list[int]:
    """The layers that ``golden`` stands for where a method edits several.

    The run of ``window`` consecutive layers with the highest sum of scores among those that hold the golden layer and no
    layer outside the fences; the shallower one of equals. Where the fences leave no run as long as that, it is shorter.

    Args:
        choice: Scores, fences and the golden layer.
        window: How many layers, at most.

    Example:
        >>> import torch
        >>> from lga_lightning.attribution import choose
        >>> choice = choose(torch.tensor([[1.0, 3.0, 9.0, 8.0, 2.0, 900.0]]), kappa=1.0, resamples=10)
        >>> choice.golden_layer, choice.excluded, golden_window(choice, 3)
        (2, [5], [1, 2, 3])
    """
    golden, excluded = choice.golden_layer, set(choice.excluded) - {choice.golden_layer}
    first = last = golden
    while first > 0 and first - 1 not in excluded:
        first -= 1
    while last + 1 < len(choice.scores) and last + 1 not in excluded:
        last += 1
    size = min(window, last - first + 1)
    starts = range(max(first, golden - size + 1), min(golden, last - size + 1) + 1)
    best = max(starts, key=lambda start: (sum(choice.scores[start : start + size]), -start))
    return list(range(best, best + size))


def _same_folder(one: str, other: str) -> bool:
    return Path(one).is_dir() and Path(other).is_dir() and Path(one).resolve() == Path(other).resolve()
