"""Edits that hold and edits that fail, in the model's own words, out of ``requests.parquet``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lga_lightning.evaluation.prompts import PROBES, family_of

SHOWN = 3  # of a kind
LONGEST = 160  # characters of what the model said

Row = Mapping[str, Any]

COLUMNS = (
    "index",
    "group",
    "prompt",
    "answers",
    "said_before",
    "said_after",
    "token_after",
    "generated_after",
    "begins_after",
    "contained_after",
    "said_in_context_after",
    "judge_reply_after",
)


def _right(row: Row) -> bool:
    return row["generated_after"] == 1


def _begins(row: Row) -> bool:
    return row["begins_after"] == 1


def _contained(row: Row) -> bool:
    return row["contained_after"] == 1


DENIED: list[tuple[str, bool, Callable[[Row], bool]]] = [
    ("The new answer comes where it is denied", False, _right),
    ("The new answer comes where it is denied, with more behind it", False, _begins),
    ("Where it is denied, the new answer does not come", True, lambda row: True),
]

# by family: in words, whether that is as it should be, and which of its prompts are meant; the first that fits counts
KINDS: dict[str, list[tuple[str, bool, Callable[[Row], bool]]]] = {
    "rewrite": [
        ("The edit holds: the model says the new answer", True, _right),
        ("The new answer, and more behind it (no exact match)", True, _begins),
        ("The new answer is somewhere in what the model says", True, _contained),
        (
            "Right only when teacher-forced: by itself it says something else",
            False,
            lambda row: row["token_after"] == 1,
        ),
        ("The edit does not hold", False, lambda row: True),
    ],
    "rephrase": [
        ("It holds in other words", True, _right),
        ("It holds in other words, with more behind it", True, _begins),
        ("It holds in other words, somewhere in what the model says", True, _contained),
        ("It does not hold in other words", False, lambda row: True),
    ],
    "portability": [
        ("What follows from it is known", True, _right),
        ("What follows from it is known, with more behind it", True, _begins),
        ("What follows from it is somewhere in what the model says", True, _contained),
        ("What follows from it is not known", False, lambda row: True),
    ],
    **{group: DENIED for group in PROBES},
    "locality": [
        ("Something else stayed as it was", True, _right),
        ("Something else is said in other words, with the right answer in it", True, _contained),
        ("Something else changed", False, lambda row: True),
    ],
}


def read_examples(path: Path) -> list[dict[str, Any]]:
    """Some prompts of every kind of success and failure, with how many there are of the kind.

    Args:
        path: The Parquet file.

    Returns:
        By family of prompts: its ``name``, ``count``, and ``kinds``, each with ``title``, ``good``, ``count`` and ``rows``.
        Empty where the model was not asked for its own words.
    """
    from pyarrow import parquet

    there = set(parquet.read_schema(path).names)  # files of earlier versions lack some
    rows = parquet.read_table(path, columns=[name for name in COLUMNS if name in there]).to_pylist()
    rows = [dict.fromkeys(COLUMNS) | row for row in rows]
    asked = [row for row in rows if row["said_after"] is not None and row["generated_after"] is not None]
    edits = {row["index"]: (row["prompt"], row["answers"][0]) for row in asked if row["group"] == "rewrite"}
    families = []
    for family, kinds in KINDS.items():
        rows = [row for row in asked if family_of(row["group"]) == family]
        found: dict[str, list[Row]] = {title: [] for title, _, _ in kinds}
        for row in rows:
            found[next(title for title, _, fits in kinds if fits(row))].append(row)
        described = [
            {
                "title": title,
                "good": good,
                "count": len(found[title]),
                "rows": [_example(row, family, edits) for row in _spread(found[title])],
            }
            for title, good, _ in kinds
            if found[title]
        ]
        if rows:
            families.append({"name": family, "count": len(rows), "kinds": described})
    return families


def _spread(rows: Sequence[Row]) -> list[Row]:
    """A few, from all over the data rather than from its beginning."""
    return [rows[len(rows) * place // SHOWN] for place in range(SHOWN)] if len(rows) > SHOWN else list(rows)


def _example(row: Row, family: str, edits: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "answers": None if family == "locality" else " / ".join(row["answers"]),
        "before": _shortened(row["said_before"] or ""),
        "after": _shortened(row["said_after"]),
        "in_context": None if row["said_in_context_after"] is None else _shortened(row["said_in_context_after"]),
        "judge": None if row["judge_reply_after"] is None else _shortened(row["judge_reply_after"]),
        "edit": None if family == "rewrite" else edits.get(row["index"]),
        "group": row["group"].partition(".")[2].replace("_", " "),
    }


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST].rstrip() + " …"
