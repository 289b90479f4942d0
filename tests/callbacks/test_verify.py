"""A race of edits at the end of ``fit``: on one process and on two, cut off and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

import lga_lightning
from lga_lightning import MEMIT, RROME, LayerSweep, MiddleLayer, ScoreCollector, find_golden_layer
from lga_lightning.callbacks.layer_race import RACE_FILE
from lga_lightning.data.loading import load_requests
from lga_lightning.exceptions import DataError
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.race_runner import EditRace
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.evidence import LocatorEvidence
from tests.helpers.cli import FAST_METHOD, forked
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_tokenizer
from tests.helpers.runs import cut_off_in_round, module, trainer

SETTINGS = RaceSettings(budget=20, requests=2, confidence=0.999999)


@pytest.fixture
def data(tmp_path):
    return EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(8))), batch_size=4)


def fit(folder, tokenizer, data, verify=SETTINGS, editor=None, **settings) -> LocatorResult:
    collector = ScoreCollector(verify=verify)
    run = module(tokenizer, editor, locator=settings.pop("locator", None) or MiddleLayer(), **settings)
    trainer(folder, collector).fit(run, datamodule=data)
    assert run.result is collector.result
    return collector.result


def untimed(result: LocatorResult) -> LocatorResult:
    return replace(result, seconds=None, race=replace(result.race, seconds=None))


def test_fit_races_as_the_function_does_and_leaves_what_was_edited(data, tokenizer, tmp_path, capsys):
    result = fit(tmp_path, tokenizer, data)
    run = module(tokenizer)
    asked = load_requests(tmp_path / "requests.jsonl").requests
    alone = find_golden_layer(
        run.llm, tokenizer, asked, MiddleLayer(), batch_size=4, editor=RROME(**FAST_METHOD), verify=SETTINGS
    )
    assert replace(alone.race, seconds=None) == replace(result.race, seconds=None)
    left = LocatorResult.load(tmp_path / "attribution.json")
    assert left.race.layer == result.golden_layer == left.golden_layer
    assert left.race.edits == result.race.edits
    edits = LocatorEvidence.load(tmp_path / RACE_FILE)
    assert edits.values[:, 0].isfinite().sum() == result.race.edits
    assert edits.seconds == result.race.seconds
    said = " ".join(capsys.readouterr().out.split())
    assert RACE_FILE in said


def test_no_race_without_being_asked(data, tokenizer, tmp_path):
    assert fit(tmp_path, tokenizer, data, verify=None).race is None
    assert not (tmp_path / RACE_FILE).exists()


def test_a_race_that_was_cut_off_goes_on(data, tokenizer, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", tokenizer, data)
    rounds = cut_off_in_round(3, monkeypatch)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "cut", tokenizer, data)
    assert not (tmp_path / "cut" / "attribution.json").exists()
    assert (tmp_path / "cut" / "attribution.ckpt").exists()
    assert untimed(fit(tmp_path / "cut", tokenizer, data)) == untimed(whole)
    assert rounds[2] == rounds[3]
    made = len(rounds)
    assert untimed(fit(tmp_path / "cut", tokenizer, data)) == untimed(whole)  # and nothing is edited twice
    assert len(rounds) == made
    more = fit(tmp_path / "cut", tokenizer, data, replace(SETTINGS, budget=24, candidates=4))
    assert more.race.edits >= whole.race.edits


def test_a_race_goes_on_where_other_requests_count(data, tokenizer, tmp_path, monkeypatch):
    """Edits are kept under the places of their requests in the data, not among those that count."""
    from lga_lightning.modules import lga

    score = lga.score_requests

    def some_do_not_count(*arguments):
        found = score(*arguments)
        found["status"][found["index"] < 3] = 1
        return found

    first = fit(tmp_path, tokenizer, data, replace(SETTINGS, budget=16, requests=3))
    made = LocatorEvidence.load(tmp_path / RACE_FILE)
    monkeypatch.setattr(lga, "score_requests", some_do_not_count)
    again = fit(tmp_path, tokenizer, data)
    assert again.num_requests == 5
    assert again.race.edits < first.race.edits
    kept = LocatorEvidence.load(tmp_path / RACE_FILE)
    assert set(made.index.tolist()) < set(kept.index.tolist())
    order = [kept.index.tolist().index(row) for row in made.index.tolist()]
    known = made.values.isfinite()
    assert torch.equal(kept.values[order][known], made.values[known])


@pytest.mark.parametrize(
    ("editor", "message"),
    [
        (RROME(**{**FAST_METHOD, "steps": 4}), "its editor's steps is '3', not '4'"),
        (MEMIT(window=2, **FAST_METHOD), "its editor's window is '1', not '2'"),
    ],
)
def test_edits_of_another_run_are_refused_before_anything_is_scored(
    editor, message, data, tokenizer, tmp_path, monkeypatch
):
    fit(tmp_path, tokenizer, data, replace(SETTINGS, budget=4, requests=1))

    def never(*arguments: object) -> None:
        raise AssertionError("nothing is to be scored")

    monkeypatch.setattr(MiddleLayer, "score", never)
    with pytest.raises(DataError, match=r"The race in race\.safetensors belongs to another run: ") as refused:
        fit(tmp_path, tokenizer, data, editor=editor)
    assert message in str(refused.value)
    assert "start anew: without that file, or in another folder" in str(refused.value)


HOST = """
import json
from pathlib import Path

from tests.callbacks.test_verify import CASES, race_in

if __name__ == "__main__":
    for name in (*CASES, "time"):  # one of them once more, from what it left
        race, rank = race_in(Path(name), CASES[name], devices=2)
        with open(f"{name}-{rank}.json", "a") as file:
            file.write(json.dumps([race.values.nan_to_num(-1).tolist(), race.seconds]) + "\\n")
"""

CASES = {
    "uneven": RaceSettings(budget=21, requests=3, confidence=0.999999),
    "one-request": RaceSettings(budget=16, requests=1, confidence=0.999999),
    "time": RaceSettings(budget="0.000001 s", requests=2, confidence=0.999999),
}


def race_in(folder: Path, settings: RaceSettings, devices: int) -> tuple[EditRace, int]:
    collector = ScoreCollector(verify=settings)
    one = L.Trainer(
        accelerator="cpu",
        devices=devices,
        callbacks=[collector],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    one.fit(module(tiny_tokenizer(), locator=LayerSweep()), DataLoader(requests(7), batch_size=2))
    return collector.race, one.global_rank


def test_two_processes_race_as_one(tmp_path, monkeypatch):
    """With rounds that do not come out even, with one request for two processes, and with a budget of time."""
    (tmp_path / "host.py").write_text(HOST)
    monkeypatch.setenv("PYTHONPATH", str(Path(lga_lightning.__file__).parents[1]))  # of the second process
    done = forked(cwd=tmp_path, script=tmp_path / "host.py")
    assert done.returncode == 0, done.stderr[-3000:]
    for name, settings in CASES.items():
        expected, _ = race_in(tmp_path / f"{name} on one", settings, devices=1)
        tables = [[*map(json.loads, (tmp_path / f"{name}-{rank}.json").open())] for rank in range(2)]
        assert tables[0] == tables[1]  # every process has the same, also the time
        assert tables[0] == tables[0][:1] * (1 + (name == "time"))  # no edit is made twice
        values = torch.tensor(tables[0][0][0]).double()
        torch.testing.assert_close(values, expected.values.nan_to_num(-1))
        race, standing = LocatorResult.load(tmp_path / name / "attribution.json").race, expected.race.standing()
        assert race.edits > 0
        assert (race.layer, race.edited, race.ended) == (standing.layer, standing.edited, expected.ended)
        assert race.confidence == pytest.approx(standing.confidence)
