"""What the design promises about the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lga_lightning

ROOT = Path(lga_lightning.__file__).parent

# the rooms, in order: each may import from those above it, and from itself
ROOMS = [
    "_version",
    "exceptions",
    "utils",
    "data",
    "models",
    "metrics",
    "covariance",
    "editing",
    "evaluation",
    "locators",
    "results",
    "reports",
    "functional",
    "job",
    "callbacks",  # Lightning, from here on
    "modules",
    "compare",
    "cli",
    "__main__",
    "__init__",
]
LIGHTNING = ROOMS[ROOMS.index("callbacks") :]
AT_THE_ROOT = 8  # modules, at most


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


EVERY_FILE = pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))


@EVERY_FILE
def test_imports_point_downward(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("lga_lightning.")}
    assert used <= set(ROOMS[: ROOMS.index(room(path)) + 1])
    if room(path) not in LIGHTNING:
        assert not any(name.split(".")[0] == "lightning" for name in imports(path))


def test_no_two_modules_import_each_other():
    modules = {
        name_of(path): {n for n in imports(path) if n.startswith("lga_lightning.")} for path in ROOT.rglob("*.py")
    }
    sorter = TopologicalSorter(modules)
    sorter.prepare()  # raises CycleError, which names the circle


def test_few_modules_stand_at_the_root():
    assert len(list(ROOT.glob("*.py"))) <= AT_THE_ROOT
    assert {room(path) for path in ROOT.rglob("*.py")} == set(ROOMS)


@EVERY_FILE
def test_models_types_are_known_in_one_place(path):
    if room(path) == "models" and path.stem in ("architecture", "structure"):
        return
    assert "transformers.pytorch_utils" not in imports(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = {  # whoever registers a structure says for what
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register_structure"
        for argument in node.args
    }
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "model_type"]
    assert all(id(node) in allowed for node in asked)
    assert not any(isinstance(node, ast.Constant) and node.value == "model_type" for node in ast.walk(tree))


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, lga_lightning; assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_is_there():
    for name in lga_lightning.__all__:
        assert getattr(lga_lightning, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = lga_lightning.Nonsense
