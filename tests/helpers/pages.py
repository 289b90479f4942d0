"""The code of a documentation page, as a package outside ours."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def python_of(page: str) -> str:
    """The first Python block of a page below ``docs/``."""
    found = re.search(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    assert found is not None, f"{page} has no Python block"
    return found[1]


def extension(folder: Path, page: str, name: str) -> str:
    """Write the code of a page as one file of a package; put ``folder`` on the path to import it.

    Args:
        folder: Where the package ``extras`` is made.
        page: The page, below ``docs/``.
        name: Name of the module.

    Returns:
        The module's dotted name, for a ``class_path``.
    """
    for loaded in [one for one in sys.modules if one.partition(".")[0] == "extras"]:
        del sys.modules[loaded]  # another test's
    package = folder / "extras"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / f"{name}.py").write_text(python_of(page), encoding="utf-8")
    importlib.invalidate_caches()
    return f"extras.{name}"
