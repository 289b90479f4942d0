"""A disk that is full, at whatever byte or call, leaves the old content or the new one, whole, and one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.exceptions import WriteError
from lga_lightning.reports.comparison import leave_comparison
from lga_lightning.reports.fit_files import leave_attribution
from lga_lightning.results.validation import write_results
from tests.helpers.artefacts import ARTEFACTS
from tests.helpers.faults import error_of, files_of_at_most
from tests.helpers.results import comparison, forecast_result, likely_parts

RESULT = EvalResult("rewrite", "Rome is in", ("France",), {"token": (0.0, 1.0)})
WRITERS: dict[str, Callable[[Path], None]] = {
    **{name: write for name, (write, _) in ARTEFACTS.items() if name != "checkpoint"},  # that one is Lightning's
    "parquet": lambda path: write_results(path / "requests.parquet", [0], ["a"], [[RESULT]]),
}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_fails_the_old_or_the_new_is_there(name, tmp_path):
    write = WRITERS[name]
    write(tmp_path)
    old = content(tmp_path)
    largest = max(map(len, old.values()))
    for size in (0, 1, largest // 2, largest - 1):
        with files_of_at_most(size), pytest.raises(WriteError, match=r"Could not write .* is as it was"):
            write(tmp_path)
        assert content(tmp_path) == old
    for nth in range(1, 60):
        error = error_of(nth, lambda: write(tmp_path))
        found = content(tmp_path)
        assert found.keys() == old.keys()
        if error is None:
            break
        assert found == old
        assert isinstance(error, WriteError)
    assert 2 < nth < 59


def test_pages_and_pictures_too(tmp_path):
    """Each file by itself: what comes after it is not written, what came before is new."""

    def leave() -> None:
        leave_attribution(forecast_result(likely_parts(5, 4)), tmp_path, verbose=False)
        leave_comparison(comparison(), tmp_path)

    leave()
    old = content(tmp_path)
    for name, size in sorted(((name, len(data)) for name, data in old.items()), key=lambda item: item[1]):
        with files_of_at_most(size - 1), pytest.raises(WriteError, match="Could not write"):
            leave()
        found = content(tmp_path)
        assert found.keys() == old.keys()
        assert len(found[name]) == size
