"""What the design promises about the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lga_lightning

ROOT = Path(lga_lightning.__file__).parent

# each row may import from the rows above it, and from its own
ROWS = [
    {"errors", "_version", "files"},
    {"requests", "questions", "families", "hooks", "loading", "texts", "chat"},
    {
        "encoding",
        "scoring",
        "prompts",
        "generation",
        "replies",
        "continuation",
        "attribution",
        "aggregation",
        "tracing",
        "passages",
        "covariance",
        "estimation",
    },
    {"metrics", "editing", "evaluation", "outcomes", "summary"},
    {"locators", "results", "standings"},
    {
        "data",
        "module",
        "callbacks",
        "comparison",
        "comparison_report",
        "report",
        "html_report",
        "charts",
        "examples",
        "model_card",
        "moments",
        "heatmap",
        "strategies",
    },
    {"cli", "__main__", "__init__"},
]


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    row = next(number for number, parts in enumerate(ROWS) if part(path) in parts)
    allowed = set().union(*ROWS[: row + 1])
    used = {name.split(".")[1] for name in imports(path) if name.startswith("lga_lightning.")}
    assert used <= allowed
    if row < 5:
        assert not any(name.split(".")[0] == "lightning" for name in imports(path))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_families_tests_a_models_type(path):
    if part(path) != "families":
        assert "transformers.pytorch_utils" not in imports(path)
        assert "model_type" not in path.read_text(encoding="utf-8")


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, lga_lightning; assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_is_there():
    for name in lga_lightning.__all__:
        assert getattr(lga_lightning, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = lga_lightning.Nonsense
