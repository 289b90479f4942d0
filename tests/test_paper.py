"""``benchmarks/paper.py``: the whole study on a tiny model, against what its parts say one by one."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from lga_lightning import LGAModule
from lga_lightning.locators import CausalTracing, causal_tracing
from lga_lightning.results.evidence import LocatorEvidence
from lga_lightning.results.regret import layer_regret
from tests.helpers.cli import FAST_METHOD
from tests.helpers.data import rows, write_rows

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LOCATORS = ["LGA, loss over the answer", "LGA, loss over the text", "CausalTracing", "published default", "MiddleLayer"]


@pytest.fixture(autouse=True)
def _everything_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        causal_tracing, "knows_old_answer", lambda model, tokenizer, asked: torch.ones(len(asked)).bool()
    )


@pytest.fixture
def config(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])  # until the test is over
    facts = [{**row, "split": ("proxy", "proxy", "test")[i % 3]} for i, row in enumerate(rows(18))]
    fast = {name: list(value) if isinstance(value, tuple) else value for name, value in FAST_METHOD.items()}
    content = {
        "model": str(model_folder),
        "data": {
            "first | set": str(write_rows(tmp_path / "first.jsonl", facts[:9])),
            "second": str(write_rows(tmp_path / "second.jsonl", facts[9:])),
        },
        "methods": {
            "R-ROME": {"class_path": "RROME", "init_args": fast},
            "FT-M": {"class_path": "FTM", "init_args": {"steps": 2}},
        },
        "proxies": 6,
        "tests": 3,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def paper(config: Path, *words: str) -> int | str | None:
    """Run the script as the shell does, as far as it gets: its exit status, or its last words."""
    sys.argv = ["paper.py", "--config", str(config), "--folder", "runs", "--accelerator", "cpu", *words]
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(BENCHMARKS / "paper.py"), run_name="__main__")
    return stop.value.code


def table(page: str, title: str) -> list[list[str]]:
    """The cells of a table's rows."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_whole_study_and_again(config, model_folder, monkeypatch):
    traced = []
    trace = CausalTracing.score
    monkeypatch.setattr(
        CausalTracing, "score", lambda self, m, t, asked: traced.extend(asked) or trace(self, m, t, asked)
    )
    assert paper(config, "--output", "page.md") == 0
    page = Path("page.md").read_text()
    assert len(traced) == 12  # once a data set, not once a method

    root = next(Path("runs").glob("*"))
    sweeps = {
        (data, method): LocatorEvidence.load(
            root / folder / slug / "tests-0" / "sweep" / "evidence.safetensors"
        ).evidence
        for data, folder in (("first | set", "first-set"), ("second", "second"))
        for method, slug in (("R-ROME", "r-rome"), ("FT-M", "ft-m"))
    }
    found = table(page, "Layers")
    names = [*LOCATORS, f"{type(LGAModule().locator).__name__}, the default", "best fixed layer"]
    assert [row[3] for row in found] == names * 4
    for model, data, method, locator, layer, _, score, regret, gap, elsewhere in found:
        assert model == model_folder.name
        data = data.replace("\\|", "|")
        (other,) = {"first | set", "second"} - {data}
        expected = layer_regret(sweeps[data, method][:, 0], int(layer))
        carried = layer_regret(sweeps[other, method][:, 0], int(layer)).regret
        assert score.startswith(f"{expected.score:.1f}"), locator
        assert regret.startswith(f"{expected.regret:.1f}")
        assert gap.startswith(f"{expected.gap:.1f}")
        assert elsewhere.replace("\\|", "|") == f"{other} {carried:.1f}"

    claims = table(page, "Claims")
    assert [row[0][0] for row in claims] == list("122333444444")
    layers: dict[str, dict] = {locator: {} for locator in names}
    for row in found:
        layers[row[3]][row[1].replace("\\|", "|"), row[2]] = int(row[4])
    points = {key: 100 * sweep[:, 0].double() for key, sweep in sweeps.items()}
    gaps = [p.amax(1).mean() - p.mean(0).amax() for p in points.values()]
    assert claims[0][4] == f"{sum(gaps) / 4:.1f}"
    regrets = [p.mean(0).amax() - p.mean(0)[layers[LOCATORS[0]][key]] for key, p in points.items()]
    assert claims[1][4] == f"{sum(regrets) / 4:.1f}"
    assert claims[1][2] == LOCATORS[0]
    leads = [p.mean(0)[layers[LOCATORS[1]][key]] - p.mean(0)[layers[LOCATORS[2]][key]] for key, p in points.items()]
    assert float(claims[9][4]) == pytest.approx(float(sum(leads) / 4), abs=0.05)
    assert {row[-1] for row in claims} <= {"holds", "does not hold", "open"}

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("all is done")

    with monkeypatch.context() as patch:
        patch.setattr(L.Trainer, "fit", never)
        patch.setattr("lga_lightning.models.loading.load_model", never)
        assert paper(config, "--output", "again.md") == 0
    assert Path("again.md").read_text() == page


def test_goes_on_where_it_was_and_says_what_is_not_done(config, monkeypatch):
    assert paper(config, "--methods", "FT-M", "--data", "second", "nowhere=nowhere.json") == 1
    page = Path("runs/paper.md").read_text()
    assert re.search(r"Not done:\n\n- .*, nowhere, FT-M: .*nowhere.json", page)
    assert {row[2] for row in table(page, "Layers")} == {"FT-M"}
    assert {row[-1] for row in table(page, "Claims") if row[0].startswith("3")} == {"no data"}
    # a comparison that was cut off: all evidence is there, the result is not
    (cell,) = Path("runs").glob("*/*/*/cell.json")
    cell.unlink()
    assert "FT-M" not in paper_page(config, "first | set", "R-ROME")
    fits, fit = [], L.Trainer.fit
    monkeypatch.setattr(L.Trainer, "fit", lambda *a, **k: fits.append(1) or fit(*a, **k))
    assert paper(config, "--methods", "FT-M", "--data", "second") == 0
    assert not fits
    assert paper(config, "--methods", "FT-M", "--data", "second", "--tests", "2") == 1
    assert "belongs to another run" in Path("runs/paper.md").read_text()


def paper_page(config: Path, data: str, method: str) -> str:
    assert paper(config, "--methods", method, "--data", data) == 0
    return Path("runs/paper.md").read_text()


def test_refuses_names_that_the_configuration_has_not(config):
    assert "`--methods` must be among ['R-ROME', 'FT-M']" in str(paper(config, "--methods", "Nonsense"))
    assert "`--data` must be among ['first | set', 'second']" in str(paper(config, "--data", "third"))
