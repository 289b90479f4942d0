"""What a person is to look at first, facts in words, and the warnings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lga_lightning.evaluation.results import EvalResult
from lga_lightning.reports.edit_wording import first_look, locality_collapse, remarks_on_words, warnings
from lga_lightning.reports.facts import print_facts
from lga_lightning.reports.html import render_report
from lga_lightning.reports.terminal import print_edits
from lga_lightning.results.validation import ValidationResult, write_results
from tests.helpers.results import validation


def fact(said: str, group: str = "rewrite", prompt: str = "The [capital] of Germany is") -> EvalResult:
    """What became of a prompt whose answer is Berlin."""
    scores = {
        "token": (0.5, 1.0),
        "generated": (0.0, float(said == "Berlin")),
        "contained": (0.0, float("Berlin" in said)),
    }
    return EvalResult(group, prompt, ("Berlin",), scores, ("Bonn", said))


def locality(token: float, before: float, after: float, name: str = "contained") -> ValidationResult:
    """An edit with these scores on the locality probes."""
    scores = {"token": (1.0, token), "generated": (1.0, 0.0), name: (before, after)}
    return validation([[fact("Berlin"), EvalResult("locality.a", "?", ("Oslo",), scores, ("Oslo", "Rome"))]])


def printed(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_three_facts_that_a_person_calls_right(tmp_path, capsys):
    """`generated` alone says a third; the answer is in all three."""
    outcomes = [[fact("Berlin")], [fact("Berlin, Germany")], [fact("in Berlin [sic]")]]
    result = validation(outcomes)
    print_edits(result)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "rewrite" in line]
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["0.000", "1.000", "0.333", "1.000"]
    assert "in context" not in "".join(lines)
    print_facts(outcomes)
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "In words, 3 of 3:"
    assert said.count("  The [capital] of Germany is\n    before  Bonn\n    after   ") == 3
    for words in ("Berlin ✓", "Berlin, Germany ✓", "in Berlin [sic] ✓"):
        assert f"    after   {words}\n    wanted  Berlin\n" in said
    result.save(tmp_path / "validation.json")
    page = render_report(tmp_path)
    assert "<strong>100%</strong><span>right, in its own words; 0% before</span>" in page


def test_facts_come_from_all_over_the_data(capsys):
    outcomes = [[fact(f"{'so ' * 40}{n}" if n else "", prompt=f"Fact\n{n}"), fact("x", "rephrase")] for n in range(9)]
    print_facts([*outcomes[:4], [EvalResult("rewrite", "?", ("!",), {"token": (0, 1)})], *outcomes[4:]])
    said = capsys.readouterr().out
    assert [line.strip() for line in said.splitlines() if "Fact" in line] == ["Fact 0", "Fact 3", "Fact 6"]
    assert "after   (nothing) ✗" in said
    assert max(map(len, said.splitlines())) <= 80
    print_facts([[EvalResult("rewrite", "?", ("!",), {"token": (0, 1)})]])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["generated"], "generated"),
        (["generated", "contained"], "contained"),
        (["generated", "contained", "judged"], "judged"),
        ([], None),
    ],
)
def test_what_to_look_at_first(names, first):
    scores = {"token": (0.0, 1.0), **dict.fromkeys(names, (0.0, 0.5))}
    metric = validation([[EvalResult("rewrite", "?", ("!",), scores)]]).metrics["rewrite"]
    assert first_look(metric) is (metric.others[first] if first else metric)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (locality(0.59, 0.5, 0.5), "only 59% of the predictions on locality probes are what they were"),
        (locality(0.6, 0.5, 0.5), None),
        (locality(0.9, 0.75, 0.44), "right answers to locality probes fell from 75% to 44%"),
        (locality(0.9, 0.75, 0.46), None),
        (locality(0.9, 0.2, 0.75), None),
        (locality(0.9, 0.75, 0.25, "begins"), None),  # of before there was `contained`: exact answers say less
        (locality(0.9, 0.75, 0.25, "judged"), "right answers to locality probes fell from 75% to 25%"),
        (validation([[fact("Berlin")]]), None),
        (validation([[EvalResult("locality.a", "?", ("!",), {"token": (1.0, 0.65)})]]), None),
    ],
)
def test_locality_that_has_collapsed(result, said, capsys, tmp_path):
    found = locality_collapse(result)
    assert found == "" if said is None else f"Locality has collapsed: {said}." in found
    print_edits(result)
    assert ("Locality has collapsed" in printed(capsys)) == (said is not None)
    result.save(tmp_path / "validation.json")
    assert ('class="note bad"' in render_report(tmp_path)) == (said is not None)


@pytest.mark.parametrize(
    ("method", "ways"),
    [
        (
            {"name": "R-ROME", "second_moment": "identity", "clamp": 4.0},
            "Try C from text in place of the identity (the method's setting second_moment: bundled, or a text), another layer (`lga fit` "
            "forecasts them), or a smaller clamp than 4.0.",
        ),
        (
            {"name": "MEMIT", "second_moment": "sampled", "clamp": 0.75},
            "Try another layer (`lga fit` forecasts them) or a smaller clamp than 0.75.",
        ),
        ({"name": "FT-M"}, "Try another layer (`lga fit` forecasts them)."),
    ],
)
def test_what_to_do_about_it(method, ways):
    assert locality_collapse(replace(locality(0.1, 1, 1), method=method)).endswith(f"Other facts are damaged. {ways}")


def test_the_warning_is_red(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    print_edits(locality(0.1, 1, 1))
    assert "\x1b[1;31mLocality has collapsed" in capsys.readouterr().out


def test_remarks_and_failures():
    verdicts = {"responses": 8, "unclear": 2, "missing": 0, "problem": None}
    cut = {"prompts": 9, "before": 3, "after": 4}
    measured = {"max_new_tokens": 200, "cut": cut, "judge": {"verdicts": verdicts}}
    result = replace(validation([[fact("Berlin")]]), evaluation=measured)
    limit, unclear = remarks_on_words(result)
    assert limit.startswith("Cut at 200 tokens before their own end: 3 of 9 answers before the edits, 4 after")
    assert unclear.startswith("The judge's reply was neither yes nor no on 2 of 8 responses")
    assert warnings(result) == []
    failed = {**measured, "judge": {"verdicts": {**verdicts, "missing": 5, "problem": "It is gone."}}}
    (said,) = warnings(replace(result, evaluation=failed))
    assert said.startswith("The judge failed: 5 of 8 verdicts are missing;")
    assert said.endswith("are kept. It is gone.")
    fine = {"max_new_tokens": 200, "cut": {"prompts": 9, "before": 0, "after": 0}}
    (edited,) = remarks_on_words(replace(result, evaluation={"edited_probes": {"left_out": 13, "probes": 176}}))
    assert edited == "13 of 176 locality probes are about facts that these edits change, and were left out."
    for nothing in (fine, None):  # files of earlier versions have none
        assert remarks_on_words(replace(result, evaluation=nothing)) == []


def test_examples_say_more_where_there_is_more(tmp_path):
    from lga_lightning.evaluation.judge import Judgement

    judged = (Judgement("p", "no", False), Judgement("p", "yes", True))
    rich = replace(fact("So it is Berlin."), said_in_context=("Bonn", "Hm, Berlin"), judgements=judged)
    rich.scores["begins"] = (0.0, 0.0)
    path = tmp_path / "requests.parquet"
    write_results(path, [0], ["a"], [[rich]])
    validation([[rich]]).save(tmp_path / "validation.json")
    page = render_report(tmp_path)
    assert "The new answer is somewhere in what the model says: 1 of 1" in page
    assert "<dt>in context</dt><dd><q>Hm, Berlin</q></dd>" in page
    assert "<dt>judge</dt><dd><q>yes</q></dd>" in page


def test_a_file_of_an_earlier_version_still_has_examples(tmp_path):
    from pyarrow import parquet

    path = tmp_path / "requests.parquet"
    write_results(path, [0], ["a"], [[fact("Berlin")]])
    table = parquet.read_table(path)
    later = ("contained", "asked", "judge", "said_in_context", "ended")
    earlier = table.select([name for name in table.column_names if not name.startswith(later)])
    parquet.write_table(earlier, path)
    validation([[fact("Berlin")]]).save(tmp_path / "validation.json")
    page = render_report(tmp_path)
    assert "The edit holds: the model says the new answer: 1 of 1" in page
    assert "could not be read" not in page
