"""The files that a choice of layer leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lga_lightning.reports.figures import PICTURE_FILE, draw_layers
from lga_lightning.reports.heatmap import HEAT_MAP_FILE, draw_heat_map
from lga_lightning.reports.html import write_report
from lga_lightning.reports.terminal import print_attribution
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult


def leave_attribution(result: LocatorResult, root: Path, verbose: bool, others: Sequence[str] = ()) -> None:
    """Write ``attribution.json``, ``layers.png``, ``report.html`` and, where there is one, ``heat_map.png``.

    Args:
        result: The choice of a layer.
        root: Folder for the files.
        verbose: Whether to print the result as well.
        others: Names of files that are there already, to be named in what is printed.
    """
    result.save(root / ATTRIBUTION_FILE)
    draw_layers(result, root / PICTURE_FILE)
    if result.has_heat_map:
        draw_heat_map(result, root / HEAT_MAP_FILE)
    write_report(root)
    if verbose:
        print_attribution(result, root, others=others)
