"""The wheel and the sdist: what is in them, and that the package works from there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lga_lightning import __version__

ROOT = Path(__file__).parents[1]
FILES = {
    *("py.typed", "data/facts.jsonl", "data/plain_text.txt", "data/formats/knowedit.py"),
    *("reports/templates/model_card.md.j2", "reports/templates/report.html.j2"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both, built by setuptools as it is here, of a copy of the sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT / "lga_lightning", source / "lga_lightning", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools import build_meta as build; [make({str(target)!r}) for make in (build.build_sdist, build.build_wheel)]"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=280, check=False
    )
    assert made.returncode == 0, made.stderr
    return target


def sources() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "lga_lightning").rglob("*.py")}


def test_the_wheel_has_everything_and_nothing_else(built):
    with zipfile.ZipFile(built / f"lga_lightning-{__version__}-py3-none-any.whl") as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        information = {name.rpartition("/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
        metadata = wheel.read(information["METADATA"]).decode()
        scripts = wheel.read(information["entry_points.txt"]).decode()
    assert {f"lga_lightning/{name}" for name in FILES} <= names
    assert sources() <= names
    assert {name.partition("/")[0] for name in names} == {"lga_lightning"}  # no tests, no benchmarks
    assert "lga = lga_lightning.__main__:main" in scripts
    assert "LICENSE" in information
    extras = set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.M))
    told = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert extras == set(re.findall(r"^\| `([a-z]+)` \|", told, re.M))  # docs/install.md tells of every extra


def test_the_sdist_has_everything(built):
    with tarfile.open(built / f"lga_lightning-{__version__}.tar.gz") as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {f"lga_lightning/{name}" for name in FILES} | sources() <= names
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_it_works_from_the_wheel(built, tmp_path):
    with zipfile.ZipFile(built / f"lga_lightning-{__version__}-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path)
    count = len((ROOT / "lga_lightning" / "data" / "facts.jsonl").read_text(encoding="utf-8").splitlines())
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import lga_lightning
from lga_lightning.evaluation.general.held_out import PLAIN_TEXT
from lga_lightning.reports.rendering import template
assert lga_lightning.__file__.startswith({str(tmp_path)!r})
assert len(lga_lightning.load_requests().requests) == {count}
assert PLAIN_TEXT.is_file() and template("report.html.j2") and template("model_card.md.j2")
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stderr
