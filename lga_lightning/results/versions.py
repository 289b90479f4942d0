"""Versions of what computes the numbers."""

from __future__ import annotations

import importlib.metadata
import platform

from lga_lightning._version import __version__


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages that compute the numbers, by name."""
    packages = ("torch", "lightning", "transformers", "torchmetrics")
    ours = {"lga-lightning": __version__, "python": platform.python_version()}
    return ours | {name: importlib.metadata.version(name) for name in packages}
