"""The table of means: against loops over requests, and what is shown of it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pyarrow import parquet

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.evaluation.summary import mean_by_group, summarise
from lga_lightning.metrics import percentile_interval
from lga_lightning.reports.terminal import print_edits, print_places
from lga_lightning.results.validation import write_results
from tests.helpers.results import validation


def result(group: str, rng: random.Random, compared: bool = False) -> EvalResult:
    """A prompt's result with scores at random."""
    scores = {"token": (rng.random(), rng.random()), "generated": (0.0, float(rng.random() < 0.5)), "nll": (1.0, 2.0)}
    scores["contained"] = (float(rng.random() < 0.5), float(rng.random() < 0.7))
    if compared:
        scores |= {"success": (0.0, float(rng.random() < 0.7)), "magnitude": (-0.5, rng.random())}
    return EvalResult(group, "?", ("!", "¡"), scores, ("before", "after"))


def results(count: int = 12) -> list[list[EvalResult]]:
    """Requests with unequal numbers of prompts of all kinds."""
    rng = random.Random(0)
    found = []
    for number in range(count):
        rows = [result("rewrite", rng, compared=True)]
        rows += [result("rephrase", rng, compared=True) for _ in range(number % 3)]
        rows += [result("portability.a", rng) for _ in range(number % 2)]
        rows += [result("portability.b", rng) for _ in range(2)]
        rows += [result("locality.neighborhood", rng, compared=number > 3)]
        rows += [EvalResult("perplexity", "text", (), {"nll": (1.0 + number, 2.0 + number)})]
        rows += [EvalResult("fluency", "?", (), {"fluency": (5.0, 6.0)}, ("x", "y"))]
        found.append(rows)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def after(of_request: list[EvalResult], group: str, metric: str) -> list[float]:
    return [one.scores[metric][1] for one in of_request if one.group == group and metric in one.scores]


def over_requests(data: list[list[EvalResult]], group: str, metric: str) -> float:
    return mean([mean(values) for of_request in data if (values := after(of_request, group, metric))])


def test_means_are_those_of_loops():
    data = results()
    metrics = summarise(data, resamples=50)
    families = [
        "rewrite",
        "rephrase",
        "portability",
        "portability.a",
        "portability.b",
        "locality",
        "locality.neighborhood",
    ]
    comparisons = [f"counterfact.{name}" for name in ("ES", "PS", "NS", "EM", "PM", "NM", "S")]
    assert list(metrics) == [*families, *comparisons, "fluency", "perplexity"]
    for name in families:
        if name not in ("portability", "locality"):
            assert metrics[name]["after"] == pytest.approx(over_requests(data, name, "token"))
            assert metrics[name]["generated"]["after"] == pytest.approx(over_requests(data, name, "generated"))
    kinds = [
        mean([mean(v) for kind in "ab" if (v := after(of_request, f"portability.{kind}", "token"))])
        for of_request in data
    ]
    assert metrics["portability"]["after"] == pytest.approx(mean(kinds))
    assert metrics["rephrase"]["num_requests"] == 8
    groups = {"E": "rewrite", "P": "rephrase", "N": "locality.neighborhood"}
    for letter, group in groups.items():
        for suffix, metric in (("S", "success"), ("M", "magnitude")):
            assert metrics[f"counterfact.{letter}{suffix}"]["after"] == pytest.approx(
                over_requests(data, group, metric)
            )
    successes = [over_requests(data, group, "success") for group in groups.values()]
    assert metrics["counterfact.S"]["after"] == pytest.approx(3 / sum(1 / value for value in successes))
    assert metrics["counterfact.S"]["before"] == 0
    assert metrics["counterfact.NS"]["num_requests"] == 8
    assert metrics["perplexity"]["before"] == pytest.approx(math.exp(mean([1.0 + number for number in range(12)])))
    assert (metrics["fluency"]["before"], metrics["fluency"]["after"]) == (5, 6)


def test_every_number_has_an_interval_and_a_protocol():
    data = results()
    metrics = summarise(data, max_new_tokens=17, resamples=200)
    assert metrics == summarise(data, max_new_tokens=17, resamples=200)
    for name, entry in metrics.items():
        for sides in (entry, entry.get("generated", entry)):
            assert sides["protocol"]
            for side in ("before", "after"):
                low, high = sides[f"{side}_ci"]
                assert low <= sides[side] <= high, (name, side)
    assert "at most 17 tokens" in metrics["rewrite"]["generated"]["protocol"]
    scores = torch.tensor([after(of_request, "rewrite", "token")[0] for of_request in data]).double()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([torch.randint(12, (100, 12), generator=generator) for _ in range(2)])
    expected = percentile_interval(scores[drawn].mean(1))
    assert metrics["rewrite"]["after_ci"] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_edit_that_breaks_the_model_is_not_left_out_of_the_means(broken):
    data = results()
    data[5] = [
        replace(one, scores={name: (before, broken) for name, (before, _) in one.scores.items()}) for one in data[5]
    ]
    metrics, whole = summarise(data, resamples=50), summarise(results(), resamples=50)
    for name in ("perplexity", "fluency", "counterfact.EM", "counterfact.S"):
        found, expected = metrics[name], whole[name]
        assert (found["before"], found["before_ci"], found["num_requests"]) == (
            expected["before"],
            expected["before_ci"],
            expected["num_requests"],
        )
        assert not math.isfinite(found["after"])
        assert all(map(math.isnan, found["after_ci"]))


def test_without_generation_and_without_old_targets():
    data = [[EvalResult("rewrite", "?", ("!",), {"token": (0.0, 1.0), "nll": (2.0, 1.0)})] for _ in range(3)]
    metrics = summarise(data)
    assert list(metrics) == ["rewrite"]
    assert "generated" not in metrics["rewrite"]
    assert metrics["rewrite"]["after_ci"] == [1, 1]


def test_scores_of_one_request():
    scores = mean_by_group(results()[5])
    assert set(scores) == {"rewrite", "rephrase", "portability.a", "portability.b", *scores} - {"token"}
    assert set(scores["rewrite"]) == {"before", "after", "generated", "contained", "nll", "success", "magnitude"}
    assert scores["fluency"] == {"before": 5.0, "after": 6.0}
    assert scores["perplexity"] == {"nll": {"before": 6.0, "after": 7.0}}


def test_the_parquet_file_has_a_row_for_every_prompt(tmp_path):
    data = results(3)
    path = tmp_path / "requests.parquet"
    write_results(path, [4, 7, 9], ["a", "b", "c"], data)
    rows = parquet.read_table(path).to_pylist()
    assert len(rows) == sum(map(len, data))
    first = rows[0]
    assert (first["index"], first["id"], first["group"]) == (4, "a", "rewrite")
    assert first["answers"] == ["!", "¡"]
    assert (first["said_before"], first["said_after"]) == ("before", "after")
    assert first["token_after"] == data[0][0].scores["token"][1]
    assert rows[-2]["group"] == "perplexity"
    assert rows[-2]["said_after"] is rows[-2]["token_after"] is None


def test_the_table_shows_what_a_person_would_look_at_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    data = results()
    result = validation(data, resamples=50)
    print_edits(result)
    print_places(result, Path("here/validation.json"))
    said = capsys.readouterr().out
    assert "the answer is in the model's own words" in " ".join(said.split())
    (line,) = [line for line in said.splitlines() if "rewrite" in line]
    rewrite = summarise(data, resamples=50)["rewrite"]
    contained = rewrite["contained"]
    shown = [contained["before"], contained["after"], rewrite["generated"]["after"], rewrite["after"]]
    assert [float(cell) for cell in line.split("│")[2:-1]] == pytest.approx(shown, abs=6e-4)
    (line,) = [line for line in said.splitlines() if "fluency" in line]
    assert [cell.strip() for cell in line.split("│")[2:-1]] == ["5.000", "6.000", "", ""]
    assert "here/requests.parquet" in said
