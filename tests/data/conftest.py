from __future__ import annotations

import json
from collections.abc import Callable

import datasets
import pytest


@pytest.fixture
def serve(monkeypatch, tmp_path) -> Callable[[list], list]:
    """Put rows on the Hub as the data set o/facts; what comes back is the list of the loader's calls."""

    load = datasets.load_dataset

    def put(rows: list) -> list:
        path = tmp_path / "served.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        calls = []

        def fake(name: str, config: str | None = None, **options: object) -> object:
            calls.append((name, config, options))
            if name != "o/facts":
                raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
            return load("json", data_files=str(path), split=options["split"], streaming=options["streaming"])

        monkeypatch.setattr(datasets, "load_dataset", fake)
        return calls

    return put
