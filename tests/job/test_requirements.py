"""What edits must reach: how it is written, what can be judged, and what is said where it is missed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.exceptions import RequirementError, SettingError
from lga_lightning.job.requirements import check_can_be_judged, check_met, parse_requirements
from lga_lightning.results.ability import AbilityResult
from lga_lightning.results.validation import ValidationResult
from tests.helpers.models import requests


def scored(rewrites: list[float], locality: list[tuple[float, float]]) -> ValidationResult:
    """Edits of which each has one rewrite, said so often, and one locality probe, right so often before and after."""
    asked = requests(len(rewrites))
    results = [
        [
            EvalResult("rewrite", request.prompt, (request.target_new,), {"token": (0, 1), "contained": (0, right)}),
            EvalResult("locality.neighborhood", "Oslo is in", ("Norway",), {"token": (1, 1), "contained": sides}),
        ]
        for request, right, sides in zip(asked, rewrites, locality, strict=True)
    ]
    return ValidationResult.build(
        asked,
        results,
        model_name="m",
        data_name="d",
        layers=[1],
        layer_source="given",
        method={"name": "R-ROME", "steps": 25, "second_moment": "identity"},
        mode="batch",
        skipped=Counter(),
        evaluation=EvaluationConfig(),
        resamples=10,
    )


def ability(cloze: float, perplexity: float) -> AbilityResult:
    """Abilities with the given ratios, after over before."""
    shared = {"before_ci": [0, 1], "after_ci": [0, 1], "ratio_ci": [0, 1], "num_items": 9, "protocol": ""}
    ratios = {"cloze": cloze, "perplexity": perplexity}
    entries = {name: {"before": 1.0, "after": ratio, "ratio": ratio, **shared} for name, ratio in ratios.items()}
    return AbilityResult.of("asked", "edited", entries)


def test_words_of_the_field_mean_the_same():
    result = scored([1, 0], [(1, 1), (1, 0)])
    names = "efficacy>=0.5, reliability>=0.5, rewrite >= .5, locality>=0.5, Specificity>=0.5, locality>=0.5x"
    assert [one.value(result) for one in parse_requirements(names)] == [0.5] * 6
    check_met(parse_requirements(names), result)
    assert parse_requirements(" ") == []


def test_locality_can_be_held_against_before():
    result = scored([1, 1], [(1, 1), (0, 0)])  # the model never knew the second one
    (absolute,), (relative,) = parse_requirements("locality>=0.9"), parse_requirements("locality>=0.9x")
    assert (absolute.value(result), relative.value(result)) == (0.5, 1)
    check_met([relative], result)


@pytest.mark.parametrize(
    ("cloze", "perplexity", "value"), [(0.97, 1.0, 0.97), (1.0, 1.25, 0.8), (1.1, 0.9, 1.1), (1.0, float("nan"), None)]
)
def test_general_is_the_worst_of_the_abilities(cloze, perplexity, value):
    (requirement,) = parse_requirements("general>=0.98x")
    result = replace(scored([1], [(1, 1)]), general=ability(cloze, perplexity))
    if value is not None:
        assert requirement.value(result) == pytest.approx(value)
    if value == 1.1:
        check_met([requirement], result)
    else:
        with pytest.raises(RequirementError, match="general is"):
            check_met([requirement], result)


def test_rounding_misses_nothing_and_what_is_missed_is_seen_to_be():
    (requirement,) = parse_requirements("general>=0.8x")
    result = replace(scored([1], [(1, 1)]), general=ability(0.7999999999999999, 1))
    check_met([requirement], result)
    with pytest.raises(RequirementError, match=r"general is 0\.79996x, not 0\.8x"):
        check_met([requirement], replace(result, general=ability(0.79996, 1)))


def test_what_is_missed_names_the_facts_and_what_may_help():
    result = scored([1, 0, 1], [(1, 1), (1, 1), (1, 0)])
    with pytest.raises(RequirementError) as missed:
        check_met(parse_requirements("efficacy>=0.9, locality>=0.85"), result)
    said = str(missed.value)
    assert "efficacy is 0.667, not 0.9 and locality is 0.667, not 0.85." in said
    prompts = [request.prompt for request in requests(3)]
    assert f"Where it fails: {prompts[1]!r} (rewrite); {prompts[2]!r} (locality)." in said
    assert "more steps than 25 (--editor.steps)" in said
    assert "C from text in place of the identity" in said
    assert missed.value.result is result
    assert missed.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("efficacy", "cannot be read. Write NAME>=NUMBER"),
        ("efficacy>0.9", "cannot be read"),
        ("eficacy>=0.9", "The names: efficacy, reliability"),
        ("efficacy>=0.9,", "The requirement '' cannot be read"),
        ("efficacy>=90", "above 0 and at most 1, which is for all: 90% is 0.9"),
        ("efficacy>=0.9x", "Write it without the x"),
        ("general>=0.98", "write general>=0.98x"),
        ("general>=98x", "at most 2x; 1x is as much as before: 98% of it is 0.98x"),
    ],
)
def test_what_cannot_be_read(text, said):
    with pytest.raises(SettingError, match=said):
        parse_requirements(text)


@pytest.mark.parametrize(
    ("text", "without", "said"),
    [
        ("generalization>=0.5", {"rephrases": ()}, "no fact has rephrases"),
        ("portability>=0.5", {"portability": {}}, "no fact has portability"),
        ("locality>=0.5", {"locality": {}}, "no fact has locality probes, and the model knows none"),
    ],
)
def test_what_cannot_be_judged(text, without, said):
    asked, required = requests(2), parse_requirements(text)
    check_can_be_judged(required, asked)
    with pytest.raises(SettingError, match=said):
        check_can_be_judged(required, [replace(request, **without) for request in asked])
