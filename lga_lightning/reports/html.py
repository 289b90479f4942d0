"""``report.html``: one page with everything that the result files of a folder hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from lga_lightning._version import __version__
from lga_lightning.exceptions import LGAError
from lga_lightning.reports.examples import read_examples
from lga_lightning.reports.html_edits import describe_edits
from lga_lightning.reports.html_layers import describe_layers
from lga_lightning.reports.rendering import template
from lga_lightning.reports.wording import layers_in_words
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult
from lga_lightning.results.validation import REQUESTS_FILE, VALIDATION_FILE, ValidationResult
from lga_lightning.utils.io import write_text

REPORT_FILE = "report.html"
CONFIGS = {"fit": "lga_fit.yaml", "validate": "lga_validate.yaml"}
# what a file that somebody changed, or that another version wrote, can make of its reader
UNREADABLE = (LGAError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)

T = TypeVar("T")


def write_report(root: Path) -> None:
    """Write ``report.html`` from the result files in a folder, whichever there are.

    Args:
        root: Folder of a run: ``default_root_dir``.
    """
    write_text(root / REPORT_FILE, render_report(root))


def render_report(root: Path) -> str:
    """The page, as HTML that loads nothing.

    A file that is missing leaves its part out; one that cannot be read is named on the page.

    Args:
        root: Folder of a run.
    """
    notes: list[str] = []

    def part(name: str, make: Callable[[Path], T]) -> T | None:
        path = root / name
        if not path.is_file():
            return None
        try:
            return make(path)
        except UNREADABLE as error:
            notes.append(f"{name} could not be read, so its part is missing: {type(error).__name__}: {error}")
            return None

    result = part(ATTRIBUTION_FILE, LocatorResult.load)
    sweep = _find_sweep(root, result) if result else None
    layers = part(ATTRIBUTION_FILE, lambda _: describe_layers(result, sweep, root)) if result else None
    validation = part(VALIDATION_FILE, ValidationResult.load)
    edits = part(VALIDATION_FILE, lambda _: describe_edits(validation)) if validation else None
    examples = part(REQUESTS_FILE, read_examples)
    configs = {verb: part(name, lambda path: path.read_text(encoding="utf-8")) for verb, name in CONFIGS.items()}
    if result and validation and layers and edits:
        notes += _disagreements(result, validation)
    return template("report.html.j2", autoescape=True).render(
        layers=layers,
        edits=edits,
        examples=examples,
        configs={verb: text for verb, text in configs.items() if text},
        config_files=CONFIGS,
        versions=_by_verb({"fit": result if layers else None, "validate": validation if edits else None}),
        notes=notes,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        made_by=__version__,
    )


def _find_sweep(root: Path, result: LocatorResult) -> LocatorResult | None:
    """The newest sweep over all layers of the same model, by the same method with the same settings, in the folder or in one in it.

    None if the result is a sweep itself. Where one of them says of no method, they stand together.
    """
    found = [*root.glob("attribution*.json"), *root.glob(f"*/{ATTRIBUTION_FILE}")]
    paths = [path for path in found if path.is_file()]
    for path in [] if result.is_sweep else sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            sweep = LocatorResult.load(path)
        except UNREADABLE:
            continue
        whole = sweep.is_sweep and not {"layers", "together"} & sweep.settings.keys()
        same_model = sweep.model == result.model and len(sweep.choice.scores) == len(result.choice.scores)
        same_method = sweep.editor == result.editor or not (sweep.editor and result.editor)
        if whole and same_model and same_method:
            return sweep
    return None


def _disagreements(result: LocatorResult, validation: ValidationResult) -> list[str]:
    """What a reader must know of files that were not made of one piece."""
    if result.model != validation.model:
        return [
            f"The layer is one of {result.model}, but the edits are of {validation.model}: two runs share this folder."
        ]
    golden = result.golden_layer
    if golden not in validation.layers:
        return [
            f"The edits were made at {layers_in_words(validation.layers)} ({validation.layer_source}), not at the golden "
            f"layer {golden}."
        ]
    return []


def _by_verb(results: dict[str, LocatorResult | ValidationResult | None]) -> dict[str, list[list[str]] | list[str]]:
    """Versions as a table: a column for each file that names some."""
    found = {verb: result.versions for verb, result in results.items() if result is not None}
    names = dict.fromkeys(name for versions in found.values() for name in versions)
    return {"verbs": [*found], "rows": [[name, *(v.get(name, "") for v in found.values())] for name in names]}
