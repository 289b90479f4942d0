"""Every committed configuration is one that the command line accepts, for every verb."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import yaml

from lga_lightning import editing
from lga_lightning.cli import run
from lga_lightning.data.sources.hub import HubSource
from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME, AlphaEdit, CrispEdit, LocFT, UltraEdit

ROOT = Path(__file__).parents[1]
STUDIED = {AlphaEdit, EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME}
METHODS = STUDIED | {CrispEdit, LocFT, UltraEdit}

COMPARISONS = sorted((ROOT / "configs" / "compare").iterdir())
STUDIES = sorted((ROOT / "configs" / "paper").iterdir())
FIELDS = sorted((ROOT / "configs" / "lifelong").iterdir())
OTHERS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(COMPARISONS) - set(STUDIES) - set(FIELDS))


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_is_accepted(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga"])
    with pytest.raises(SystemExit) as stop:
        run(["compare", "--config", str(path), "--print_config"])
    assert not stop.value.code
    shown, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    assert list(shown["compare"]["locators"]) == list(written["compare"]["locators"])
    assert shown["model"]["only_known"] is True


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_is_accepted(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from paper import read_study

    study = read_study(path)
    written = yaml.safe_load(path.read_text())
    assert study.model == written["model"]
    assert study.data == written["data"]
    assert study.proxies == written["proxies"]
    assert {type(method) for method in study.methods.values()} == STUDIED
    assert [method.name for method in study.methods.values()] == list(written["methods"])
    for source in study.data.values():
        if source and source.startswith("hub:"):
            HubSource.parse(source)


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: path.stem)
def test_field_is_accepted(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from lifelong import read_field

    field = read_field(path)
    written = yaml.safe_load(path.read_text())
    assert field.model == written["model"]
    assert {type(method) for method in field.methods.values()} == METHODS
    assert list(field.methods) == list(written["methods"])


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_config_is_accepted(path, verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga"])
    with pytest.raises(SystemExit) as stop:
        run([verb, "--config", str(path), "--print_config"])
    assert not stop.value.code
    shown, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    assert shown["model"].get("model_name") == written["model"].get("model_name", "smollm2-135m")
    assert shown["model"]["editor"]["class_path"].endswith(written["model"]["editor"]["class_path"])


def test_quickstart_says_where_it_differs_from_the_defaults():
    text = (ROOT / "configs" / "quickstart.yaml").read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for word in ("requests", "steps", "context", "C = I"):
        assert word in comment


def test_every_method_has_a_file():
    named = {
        yaml.safe_load(path.read_text())["model"]["editor"]["class_path"]
        for path in (ROOT / "configs" / "editing").iterdir()
    }
    assert named == {kind.__name__ for kind in METHODS}


def printed(capsys, *words: str) -> dict:
    """The configuration of `validate` with some words on the command line."""
    with pytest.raises(SystemExit) as stop:
        run(["validate", *words, "--print_config"])
    assert not stop.value.code
    return yaml.safe_load(capsys.readouterr().out)


def defaults(kind: type) -> dict:
    """Of a method's arguments, and of those that it hands on to its bases."""
    found = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base).parameters.values()
        for p in parameters:
            if p.kind is not p.VAR_KEYWORD:
                found.setdefault(p.name, list(p.default) if isinstance(p.default, tuple) else p.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "editing").iterdir()), ids=lambda path: path.stem)
@pytest.mark.parametrize("before", ["nothing", "quickstart"])
def test_a_method_keeps_its_own_settings(path, before, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga"])
    first = ["--config", str(ROOT / "configs" / "quickstart.yaml")] if before == "quickstart" else []
    editor = printed(capsys, *first, "--config", str(path))["model"]["editor"]
    written = yaml.safe_load(path.read_text())["model"]["editor"]
    name = written["class_path"]
    assert written["init_args"].keys() == defaults(getattr(editing, name)).keys()
    assert editor["class_path"].endswith(name)
    assert editor["init_args"] == defaults(getattr(editing, name)) | written["init_args"]
    if before == "nothing":
        assert printed(capsys, f"--model.editor={name}")["model"]["editor"]["init_args"] == defaults(
            getattr(editing, name)
        )


def test_settings_of_the_default_classes_need_no_class(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lga"])
    model = printed(capsys, "--model.editor.steps=7", "--model.locator=LGA", "--model.locator.kappa=2")["model"]
    assert model["editor"]["class_path"].endswith("RROME")
    assert model["editor"]["init_args"]["steps"] == 7
    assert model["locator"]["init_args"]["kappa"] == 2
