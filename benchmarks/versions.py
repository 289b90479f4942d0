"""Does the package work at both ends of what it allows? A new environment for each Python and end, and a few tests there.

    python benchmarks/versions.py --python 3.10 3.11 3.12 3.13 --output versions.md
    python benchmarks/versions.py --python 3.11 --torch torch==2.13.0 --find-links wheels/   # a torch of your own choice

The low end takes the lowest version that is allowed of each package that pyproject.toml names, the high end the newest of everything. Needs uv
(pip install uv) and the Pythons. With ``--resolve`` versions are found, nothing is installed, and that Python, where it is there, reads the sources.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
ENDS = {"low": "lowest-direct", "high": "highest"}
SHOWN = ("torch", "lightning", "transformers", "torchmetrics", "peft", "datasets")
TESTS = ("tests/test_functional.py", "tests/editing/test_adapter.py")


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository.

    Args:
        command: The command.
        variables: Environment variables beside those that there are.
    """
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )


def try_end(python: str, end: str, folder: Path, args: argparse.Namespace) -> tuple[dict[str, str], str]:
    """Find the versions of one end, and try them.

    Args:
        python: The Python, as ``3.12``.
        end: The end, ``low`` or ``high``.
        folder: Where the environment is made.
        args: The arguments of the command line.

    Returns:
        Versions by package, and how it went.
    """
    links = ["--find-links", args.find_links] if args.find_links else []
    limits, chosen = folder / "limits.txt", folder / "chosen.txt"
    limits.write_text(f"{args.torch or ''}\n")
    found = run(
        *("uv", "pip", "compile", "-q", "--no-annotate", "--no-header", "pyproject.toml", "--extra", "test"),
        *("--python-version", python, "--resolution", ENDS[end], "-c", str(limits), *links, "-o", str(chosen)),
    )
    if found.returncode:
        return {}, f"no such versions: {found.stderr.strip().splitlines()[-1]}"
    rows = [line.split(" ")[0].split("==") for line in chosen.read_text().splitlines() if "==" in line]
    versions = {name: version for name, version in rows if name in SHOWN}
    if args.resolve:
        code = "import ast, pathlib; [ast.parse(p.read_text('utf-8')) for p in pathlib.Path('lga_lightning').rglob('*.py')]"
        if not shutil.which(f"python{python}"):
            return versions, "resolved"
        read = run(f"python{python}", "-c", code)
        return versions, "resolved, sources read" if read.returncode == 0 else read.stderr.strip().splitlines()[-1]
    there = str(folder / "env")
    for step in (
        ("uv", "venv", "-q", "--python", python, there),
        ("uv", "pip", "install", "-q", *links, "-r", str(chosen)),
        ("uv", "pip", "install", "-q", "--no-deps", "--editable", "."),
    ):
        made = run(*step, VIRTUAL_ENV=there)
        if made.returncode:
            return versions, f"not installed: {made.stderr.strip().splitlines()[-1]}"
    tests = run(f"{there}/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *args.tests)
    return versions, tests.stdout.strip().splitlines()[-1].strip("= ")


def main() -> None:
    """Try every Python at both ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", nargs="+", default=["3.10", "3.11", "3.12", "3.13"])
    parser.add_argument("--ends", nargs="+", choices=list(ENDS), default=list(ENDS))
    parser.add_argument("--torch", help="a requirement that torch is held to, as torch==2.13.0")
    parser.add_argument("--find-links", help="a folder of wheels")
    parser.add_argument("--tests", nargs="+", default=list(TESTS))
    parser.add_argument("--resolve", action="store_true", help="install nothing")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    table = ["| Python | end | " + " | ".join(SHOWN) + " | result |", "|---" * (len(SHOWN) + 3) + "|"]
    for python in args.python:
        for end in args.ends:
            with tempfile.TemporaryDirectory() as folder:
                versions, result = try_end(python, end, Path(folder), args)
            cells = [python, end, *(versions.get(name, "") for name in SHOWN), result]
            table.append(f"| {' | '.join(cells)} |")
            Console(soft_wrap=True).print(table[-1], markup=False, highlight=False)
    if args.output:
        args.output.write_text("\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
