"""What ``lga validate`` leaves: ``validation.json``, and every prompt with its scores in ``requests.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lga_lightning.evaluation.edit_metrics import BUILT_IN, EditMetric
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.utils.io import write_whole

SIDES = ("before", "after")


VALIDATION_FILE = "validation.json"


REQUESTS_FILE = "requests.parquet"


def write_outcomes(
    path: Path,
    index: Sequence[int],
    ids: Sequence[str],
    outcomes: Sequence[Sequence[EvalResult]],
    metrics: Sequence[EditMetric] = (),
) -> None:
    """Write a Parquet file with one row a prompt: its text, what the model said, and its scores, before and after.

    Args:
        path: Where the file is to appear, whole.
        index: N positions of the requests in their data set.
        ids: N ids of the requests.
        outcomes: N requests' results.
        metrics: Metrics beside the built-in ones.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names = [metric.name for metric in (*BUILT_IN, *metrics)]
    rows = []
    for place, name, of_request in zip(index, ids, outcomes, strict=True):
        for outcome in of_request:
            row = {"index": place, "id": name, **asdict(outcome)}
            scores, said = row.pop("scores"), row.pop("said") or (None, None)
            row |= {f"said_{side}": words for side, words in zip(SIDES, said, strict=True)}
            row |= {
                f"{metric}_{side}": scores.get(metric, (None, None))[i]
                for metric in names
                for i, side in enumerate(SIDES)
            }
            rows.append(row)
    said_columns = [(f"said_{side}", pa.string()) for side in SIDES]
    numbers = [(f"{metric}_{side}", pa.float64()) for metric in names for side in SIDES]
    words = [("id", pa.string()), ("group", pa.string()), ("prompt", pa.string()), ("answers", pa.list_(pa.string()))]
    table = pa.Table.from_pylist(rows, pa.schema([("index", pa.int64()), *words, *said_columns, *numbers]))
    write_whole(path, lambda scratch: parquet.write_table(table, scratch))
