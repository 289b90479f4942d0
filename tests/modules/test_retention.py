"""Early facts that are asked again, speed and memory; the suite of general ability through a Trainer."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lga_lightning.callbacks import EditReport
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.results import EvalResult, mean_scores
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.retention import Cohorts, Growth
from lga_lightning.reports.tables import cohort_table
from lga_lightning.results.retention import Cohort, CohortPoint, GrowthPoint
from lga_lightning.results.validation import ValidationResult
from tests.helpers.data import rows, write_rows
from tests.helpers.runs import module, trainer

COUNT = 27


@pytest.fixture
def data(tmp_path) -> EditDataModule:
    return EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(COUNT))), batch_size=2)


def added(size: int, count: int) -> list[Cohort]:
    cohorts = Cohorts()
    for start in range(0, count, size):
        cohorts.add(range(start, min(start + size, count)))
    return cohorts.all


def test_cohorts_begin_with_the_1st_10th_100th_group():
    assert [(c.group, c.first_edit, len(c.index)) for c in added(3, 400)] == [(1, 1, 9), (10, 28, 9), (100, 298, 9)]
    assert [(c.group, c.first_edit, len(c.index)) for c in added(1, 12)] == [(1, 1, 8), (10, 10, 3)]
    assert [(c.group, c.first_edit, len(c.index)) for c in added(20, 210)] == [(1, 1, 20), (10, 181, 20)]
    assert added(3, 400)[1].index == list(range(27, 36))


def test_a_cohort_is_returned_when_it_has_its_last_fact():
    cohorts = Cohorts()
    found = [cohorts.add([number]) for number in range(20)]
    assert [number for number, cohort in enumerate(found) if cohort is not None] == [7, 16]
    again = Cohorts()
    again.load_state(json.loads(json.dumps(cohorts.state())))
    assert again.all == cohorts.all
    assert again.add([20]) is None


def test_points_of_a_cohort():
    def results(score: float) -> list[EvalResult]:
        fluent = EvalResult("fluency", "Q", (), {"fluency": (5.0, 6.0)}, ("x", "y"))  # bits, and not teacher-forced
        return [EvalResult("rewrite", "Q", ("A",), {"token": (0.0, score)}), fluent]

    cohort = Cohort(1, 1, [0, 1])
    cohort.note(2, [results(1.0), results(0.5)])
    cohort.note(2, [results(0.0)])  # there is one already
    cohort.note(9, [])
    assert cohort.points == [CohortPoint(2, {"rewrite": 0.75})]
    assert Cohort.from_json(json.loads(json.dumps(cohort.to_dict()))) == cohort


def test_early_facts_have_a_column_for_every_metric_that_one_of_them_has():
    first = Cohort(1, 1, [0], [CohortPoint(1, {"rewrite": 1.0})])
    second = Cohort(10, 10, [9], [CohortPoint(10, {"rewrite": 0.5, "rephrase": 0.25, "locality.a": 1.0})])
    headings, rows = cohort_table([first, second])
    assert headings == ["facts", "edits in place", "rewrite", "rephrase"]
    assert rows == [["1", "1", "1.000", "n/a"], ["10", "10", "0.500", "0.250"]]


def test_growth_counts_the_time_of_edits_alone():
    times = iter([0.0, 3.0, 10.0, 13.0, 20.0, 26.0, 30.0, 31.0])
    growth = Growth(torch.device("cpu"), lambda: next(times))
    for edits in (4, 5, 6, 7):
        with growth.measured(lambda edits=edits: edits):
            pass
    assert [(p.edits, p.seconds) for p in growth.points] == [(4, 3.0), (5, 6.0), (7, 13.0)]
    assert [p.edits_per_minute for p in growth.points] == pytest.approx([80.0, 20.0, 60 * 2 / 7])
    assert all(p.memory_mb > 50 and p.device_peak_mb is None for p in growth.points)
    again = Growth(torch.device("cpu"))
    again.load_state(growth.state())
    assert again.points == growth.points
    again.add(7)
    assert len(again.points) == 3


def validate(folder, made, data, **settings) -> ValidationResult:
    report = EditReport(**{"generate": False, "resamples": 10, **settings})
    trainer(folder, report).validate(made, datamodule=data, verbose=False)
    assert ValidationResult.load(folder / "validation.json").to_dict().keys() == report.result.to_dict().keys()
    return report.result


def test_cohorts_of_a_run_are_what_evaluation_says(tmp_path, data, tokenizer, pictures):
    made = module(tokenizer, mode="sequential")
    result = validate(tmp_path, made, data, general=False)
    first, second = result.cohorts
    assert (first.index, second.index) == (list(range(8)), list(range(18, 26)))
    assert [point.edits for point in first.points] == [8, 10, 27]
    assert [point.edits for point in second.points] == [26, 27]
    session = EditSession(made.editor, made.llm, tokenizer, 1)
    requests = data.loaded.requests
    for start in range(0, COUNT, 2):
        session.edit(requests[start : start + 2])
        done = len(session.requests)
        for cohort in result.cohorts:
            for point in (p for p in cohort.points if p.edits == done):
                asked = [requests[place] for place in cohort.index]
                outcomes = evaluate(made.llm, tokenizer, asked, [session.delta] * 8, EvaluationConfig(generate=False))
                for family in ("rewrite", "rephrase", "locality"):
                    expected = mean_scores(outcomes, family, "token")[:, 1].mean().item()
                    assert point.scores[family] == pytest.approx(expected, abs=1e-6)
    assert result.growth[-1].edits == COUNT
    assert (tmp_path / "drift.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text()
    assert "Early facts, asked again" in page
    assert "19-26" in page
    assert "Speed and memory" in page


@pytest.mark.parametrize("mode", ["batch", "sequential"])
def test_general_ability_is_asked_by_itself(mode, tmp_path, data, tokenizer, capsys):
    data.limit = 3
    result = validate(tmp_path, module(tokenizer, mode=mode), data)
    scores = result.general.scores
    assert list(scores) == ["cloze", "choice", "perplexity"]
    assert scores["choice"].num_items > 100
    assert scores["perplexity"].num_items == 24
    assert scores["perplexity"].ratio == pytest.approx(scores["perplexity"].after / scores["perplexity"].before)
    assert scores["perplexity"].ratio != 1
    said = " ".join(capsys.readouterr().out.split())
    assert "--edits.general false leaves it out" in said
    assert "General ability, all edits in place" in said
    page = (tmp_path / "report.html").read_text()
    assert "General ability before and after the edits" in page
    assert "24 passages of plain text" in page


def test_edits_that_are_each_made_alone_share_the_items(tmp_path, data, tokenizer, monkeypatch):
    data.limit = 5
    assert validate(tmp_path / "off", module(tokenizer), data).general is None
    monkeypatch.setattr("lga_lightning.callbacks.ability.SAMPLE", 2)
    made = module(tokenizer)
    shares: list[list[int]] = []
    from lga_lightning.evaluation.general import GeneralSuite

    ask = GeneralSuite.__call__

    def noted(self, items, delta):
        shares.append(list(items))
        assert delta.updates
        return ask(self, items, delta)

    monkeypatch.setattr(GeneralSuite, "__call__", noted)
    result = validate(tmp_path / "on", made, data, general=True)
    assert [share[:2] for share in shares] == [[0, 2], [1, 3]]
    assert sorted(shares[0] + shares[1]) == list(range(len(shares[0]) + len(shares[1])))
    assert "one of 2 edits" in result.general.edited
    assert math.isfinite(result.general.scores["perplexity"].after)


def test_shares_of_two_processes_are_those_of_one(tmp_path, data, tokenizer):
    """Every item is asked once, whichever process asks it."""
    from types import SimpleNamespace

    from lga_lightning.callbacks.ability import AbilityCheck

    def shares(rank: int, size: int) -> list[int]:
        trainer = SimpleNamespace(global_rank=rank, world_size=size, strategy=None)
        owner = SimpleNamespace(trainer=trainer, schedule=SimpleNamespace(delta=None))
        return [item for items, _ in AbilityCheck()._shares(owner, 11) for item in items]

    assert sorted(shares(0, 2) + shares(1, 2)) == shares(0, 1) == list(range(11))


def test_growth_survives_the_file():
    point = GrowthPoint(3, 1.5, 120.0, 300.0, 12.5)
    assert GrowthPoint.from_json(json.loads(json.dumps(point.to_dict()))) == point
