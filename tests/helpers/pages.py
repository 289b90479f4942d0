"""The code blocks of documentation pages."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: Path of the page from the repository's root.
        line: Line of its opening fence, from 1.
        language: What stands behind the fence.
        code: Its text.
        not_run: Why the page says that it is not run; None where it is.
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def commands(self) -> list[str]:
        """What is typed at the prompts of a console block, continued lines joined."""
        joined = self.code.replace("\\\n", " ")
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def blocks_of(path: Path) -> list[Block]:
    """The fenced blocks of a page; ``<!-- not run: REASON -->`` on the line before a block says why nobody runs it.

    Args:
        path: The page.
    """
    text = path.read_text(encoding="utf-8")
    fences = re.finditer(r"(?:^<!-- not run: (.+?) -->\n)?^```(.*)\n([\s\S]*?)^```$", text, re.M)
    return [
        Block(
            page=str(path.relative_to(DOCS.parent)),
            line=text.count("\n", 0, fence.start()) + 1,
            language=fence[2],
            code=fence[3],
            not_run=fence[1],
        )
        for fence in fences
    ]
