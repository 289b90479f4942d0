"""Metrics of one's own beside the built-in ones, and the words that the built-in ones carry."""

from __future__ import annotations

import pytest
import torch
from pyarrow import parquet

from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.edit_metrics import BUILT_IN, EditMetric, Fluency
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.prompts import EvalPrompt
from lga_lightning.evaluation.responses import Response
from lga_lightning.evaluation.results import compare_responses
from lga_lightning.evaluation.summary import mean_by_group, summarise
from lga_lightning.exceptions import SettingError
from lga_lightning.results.validation import WORDS, write_results
from tests.helpers.edits import random_edits
from tests.helpers.models import requests


class Length(EditMetric):
    """Letters that the model says on its own; on rewrite and locality prompts."""

    name = "length"
    protocol = "letters of the model's own words"

    def applies(self, prompt: EvalPrompt) -> bool:
        return prompt.family in ("rewrite", "locality")

    def score(self, prompt, before, after):
        return None if before.text is None or after.text is None else (len(before.text), len(after.text))


def of_its_own(**attributes) -> EditMetric:
    return type("Mine", (Length,), attributes)()


def test_a_metric_of_ones_own_is_scored_summarised_and_written(llama, tokenizer, tmp_path):
    data, config = requests(3), EvaluationConfig(max_new_tokens=6, metrics=(Length(),), fluency=True)
    deltas = random_edits(llama, 3)
    results = evaluate(llama, tokenizer, data, deltas, config)
    means = []
    for of_request in results:
        said = [result.said for result in of_request if result.group.split(".")[0] in ("rewrite", "locality")]
        for result in of_request:
            expected = (float(len(result.said[0])), float(len(result.said[1])))
            assert result.scores.get("length") == (expected if result.said in said else None)
        assert len(said) == 3  # a prompt and two probes, all alike: not a mean of groups
        means.append([sum(len(pair[side]) for pair in said) / 3 for side in range(2)])
    metrics = summarise(results, resamples=50, metrics=config.metrics)
    expected = torch.tensor(means, dtype=torch.float64).mean(0).tolist()
    assert [metrics["length"]["before"], metrics["length"]["after"]] == pytest.approx(expected)
    assert (metrics["length"]["num_requests"], metrics["length"]["protocol"]) == (3, Length.protocol)
    assert metrics["length"]["after_ci"][0] <= metrics["length"]["after"] <= metrics["length"]["after_ci"][1]
    assert mean_by_group(results[0])["rewrite"]["length"]["after"] == len(results[0][0].said[1])

    write_results(tmp_path / "requests.parquet", range(3), ["a", "b", "c"], results, config.metrics)
    table = parquet.read_table(tmp_path / "requests.parquet")
    assert table.column_names[-2:] == ["length_before", "length_after"]
    assert table["length_after"][0].as_py() == len(results[0][0].said[1])

    # the built-in ones are what they are without it
    plain = EvaluationConfig(max_new_tokens=6, fluency=True)
    without = summarise(evaluate(llama, tokenizer, data, deltas, plain), resamples=50)
    assert {name: entry for name, entry in metrics.items() if name != "length"} == without


def test_it_does_not_count_where_the_model_says_nothing(llama, tokenizer):
    config = EvaluationConfig(generate=False, metrics=(Length(),))
    results = evaluate(llama, tokenizer, requests(2), random_edits(llama, 2), config)
    assert all("length" not in result.scores for of_request in results for result in of_request)
    assert "length" not in summarise(results, resamples=50, metrics=config.metrics)


def test_the_columns_of_the_built_in_ones():
    names = [metric.name for metric in BUILT_IN]
    words = ["generated", "begins", "contained", "generated_in_context", "contained_in_context", "judged", "ended"]
    assert names == ["token", *words, "nll", "success", "magnitude", "fluency"]


def test_responses_without_what_a_metric_needs_have_no_score():
    prompts = (
        EvalPrompt("rewrite", "?", ("!",)),
        EvalPrompt("locality.a", "?", ("!",)),
        EvalPrompt("fluency", "?", ()),
        EvalPrompt("perplexity", "text", ()),
    )
    for prompt in prompts:
        assert compare_responses(prompt, Response(), Response()).scores == {}
    assert not Fluency().applies(prompts[0])


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (Length, "derive from EditMetric, got <class"),
        (of_its_own(name="token"), "'token', which results have already"),
        (of_its_own(name="rewrite"), "'rewrite', which results have already"),
        *((of_its_own(name=words), f"'{words}', which results have already") for words in WORDS),
        (of_its_own(name="two words"), "must be letters, digits and underscores, got 'two words'"),
        (of_its_own(name=None), "must be letters, digits and underscores, got None"),
        (of_its_own(protocol=""), "Mine has no `protocol`"),
    ],
)
def test_metrics_that_results_could_not_list_are_refused(metric, said):
    with pytest.raises(SettingError, match=said):
        EvaluationConfig(metrics=(metric,))


def test_two_of_one_name_are_refused():
    with pytest.raises(SettingError, match="'length', which results have already"):
        EvaluationConfig(metrics=(Length(), Length()))
