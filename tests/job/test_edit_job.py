"""The whole job on a tiny model: the layer, the edit, the scores, the folder, and the gate before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pyarrow import parquet

from lga_lightning import RROME, edit, functional
from lga_lightning.data import to_record
from lga_lightning.editing import WeightDelta
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.exceptions import DataError, InvalidRequest, ModelError, RequirementError, SettingError
from lga_lightning.functional import known_golden_layer
from lga_lightning.job import EditJob
from lga_lightning.locators.race import RaceSettings
from tests.helpers.cli import FAST_METHOD
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests


class Answers(EditMetric):
    name, protocol = "answers", "number of answers"

    def applies(self, prompt):
        return bool(prompt.answers)

    def score(self, prompt, before, after):
        return 1.0, float(len(prompt.answers))


@pytest.fixture
def proxies(tmp_path):
    return write_rows(tmp_path / "proxies.jsonl", rows(6))


@pytest.fixture
def searches(monkeypatch) -> list:
    """One entry for every search for a golden layer."""
    made, find = [], functional.find_golden_layer
    monkeypatch.setattr(functional, "find_golden_layer", lambda *given, **more: made.append(1) or find(*given, **more))
    return made


def test_from_facts_to_a_folder(llama, tokenizer, proxies, searches, tmp_path, capsys):
    editor, before = RROME(**FAST_METHOD), {name: p.clone() for name, p in llama.named_parameters()}
    settings = {"editor": editor, "proxies": proxies, "race": RaceSettings(budget=8), "show": True}
    settings["evaluation"] = EvaluationConfig(metrics=(Answers(),))
    facts = [to_record(request) for request in requests(3)]
    done = EditJob(**settings, output=tmp_path / "adapter").run(llama, tokenizer, facts, "three facts")
    assert done.search.race.edits <= 8
    layer = done.search.golden_layer
    expected = editor.compute(llama, tokenizer, requests(3), layer)
    loaded = WeightDelta.load(done.folder, llama)
    for name, update in expected.updates.items():
        assert torch.equal(done.delta.matrix(name), update.matrix)
        assert torch.equal(loaded.matrix(name), update.matrix)
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.named_parameters())
    files = {"README.md", "report.html", "validation.json", "requests.parquet", "attribution.json", "lga.json"}
    assert files < {path.name for path in done.folder.iterdir()}
    assert done.result.data == "three facts"
    for row in parquet.read_table(done.folder / "requests.parquet").to_pylist():
        assert (row["answers_before"], row["answers_after"]) == (1, len(row["answers"]))
    assert "The capital of France is" in (done.folder / "report.html").read_text()
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Golden layer {layer} of LlamaForCausalLM" in printed
    assert "found now, and kept for the next time, with 6 of proxies.jsonl" in printed
    assert "efficacy" in printed
    assert "In words, 3 of 3:" in printed
    assert len(searches) == 1

    again = EditJob(**settings, output=None).run(llama, tokenizer, facts)
    assert len(searches) == 1
    assert again.search == done.search
    assert again.folder is None
    assert "found before" in capsys.readouterr().out


def test_a_layer_is_known_for_one_model_method_and_set_of_proxies(llama, tokenizer, proxies, searches):
    method = RROME(**FAST_METHOD)
    found, known = known_golden_layer(llama, tokenizer, method, proxies, race=None)
    assert (known, len(searches)) == (False, 1)
    assert known_golden_layer(llama, tokenizer, RROME(**FAST_METHOD), proxies, race=None) == (found, True)
    for editor, facts in ((RROME(**{**FAST_METHOD, "steps": 4}), proxies), (method, requests(5))):
        _, known = known_golden_layer(llama, tokenizer, editor, facts, race=None)
        assert not known
    with torch.no_grad():
        llama.lm_head.weight.mul_(1.5)
    _, known = known_golden_layer(llama, tokenizer, method, proxies, race=None)
    assert (known, len(searches)) == (False, 4)


def test_proxies_about_what_is_edited_are_left_out(llama, tokenizer, searches):
    found, _ = known_golden_layer(llama, tokenizer, RROME(**FAST_METHOD), requests(6), requests(2), race=None)
    assert found.num_requests == 4
    with pytest.raises(DataError, match="Every fact of a list of requests is about a subject that is to be edited"):
        known_golden_layer(llama, tokenizer, RROME(**FAST_METHOD), requests(2), requests(2), race=None)


def test_a_model_that_knows_too_little_is_told_what_to_do(llama, tokenizer):
    with pytest.raises(DataError, match="The model knows 0 of the bundled facts, too few"):
        edit(llama, tokenizer, requests(1), editor=RROME(**FAST_METHOD))


def test_nothing_is_written_where_the_gate_is_shut(llama, tokenizer, tmp_path):
    editor = RROME(**{**FAST_METHOD, "steps": 2})  # the search has made one step
    job = EditJob(editor, 1, require="efficacy>=1, general>=0.01x", output=tmp_path / "adapter", show=False)
    with pytest.raises(
        RequirementError, match=r"efficacy is 0, not 1\. Where it fails: 'The capital of France is'"
    ) as shut:
        job.run(llama, tokenizer, requests(2))
    assert shut.value.result.metrics["rewrite"].after < 1
    assert shut.value.result.general.scores["perplexity"].num_items > 0
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_judged_is_said_before_any_edit(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(RROME, "compute", lambda *given, **more: pytest.fail("edited"))
    facts = [replace(request, rephrases=()) for request in requests(2)]
    with pytest.raises(SettingError, match=r"generalization>=0\.5 cannot be judged"):
        EditJob(RROME(), 1, require="generalization>=0.5", output=None).run(llama, tokenizer, facts)
    with pytest.raises(DataError, match="no request to edit"):
        EditJob(output=None).run(llama, tokenizer, [])


def test_a_folder_that_is_there_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(SettingError, match="is there already"):
        EditJob(output=tmp_path / "adapter")
    EditJob(output=tmp_path / "adapter", overwrite=True)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path / "adapter")
    for place in (tmp_path / "file", ".", "..", tmp_path):
        with pytest.raises(SettingError, match="since it is no folder, or the current one is in it"):
            EditJob(output=place, overwrite=True)
    with pytest.raises(SettingError, match=r"cannot be written: .*file' is no folder"):
        EditJob(output=tmp_path / "file" / "sub" / "adapter")


def test_on_top_of_an_adapter(llama, tokenizer, tmp_path, capsys):
    editor, first, later = RROME(**FAST_METHOD), requests(2), requests(4)[2:]
    EditJob(editor, 1, output=tmp_path / "one").run(llama, tokenizer, first)
    done = EditJob(editor, 2, on=tmp_path / "one", output=tmp_path / "both").run(llama, tokenizer, later)
    below = WeightDelta.load(tmp_path / "one", llama)
    with below.applied(llama):
        added = editor.compute(llama, tokenizer, later, 2)
    expected, both = below.then(added), WeightDelta.load(tmp_path / "both", llama)
    assert both.ranks == expected.ranks
    assert all(torch.equal(both.matrix(name), expected.matrix(name)) for name in expected.updates)
    assert [request.prompt for request in both.facts.requests] == [request.prompt for request in (*first, *later)]
    assert done.result.num_requests == 4
    assert all(request.prompt in (tmp_path / "both" / "README.md").read_text() for request in first)
    with pytest.raises(DataError, match="answers 'The capital of France is' with 'Rome' already"):
        EditJob(editor, 2, on=tmp_path / "one", output=None).run(llama, tokenizer, first)
    (tmp_path / "one" / "facts.json").unlink()
    with pytest.raises(DataError, match="does not say which facts it holds"):
        EditJob(editor, 2, on=tmp_path / "one", output=None).run(llama, tokenizer, later)


def test_what_is_folded_is_what_is_scored(llama, tokenizer):
    done = EditJob(RROME(**FAST_METHOD), 1, max_rank=1, output=None).run(llama, tokenizer, requests(2))
    assert set(done.delta.ranks.values()) == {1}
    assert done.result.method["max_rank"] == 1
    scored = evaluate(llama, tokenizer, requests(2), [done.delta] * 2)
    assert [[one.scores for one in of] for of in done.responses] == [[one.scores for one in of] for of in scored]


def test_a_sample_is_not_all():
    with pytest.raises(SettingError, match=r"EditJob scores every fact.* Leave out `scored`"):
        EditJob(evaluation=EvaluationConfig(scored=2))


def test_a_job_says_how_much_it_changed(llama, tokenizer):
    done = EditJob(RROME(**FAST_METHOD), 1, output=None, evaluation=EvaluationConfig(generate=False)).run(
        llama, tokenizer, requests(3)
    )
    assert done.result.drift[-1].largest_change > 0


def test_a_fact_that_is_too_long_is_named_before_any_search(llama, tokenizer, searches):
    long = replace(requests(1)[0], rephrases=("Rome is in " + "x" * 90_000,))
    with pytest.raises(InvalidRequest, match=r"positions\. Shorten it"):
        EditJob(RROME(**FAST_METHOD), output=None).run(llama, tokenizer, [long])
    assert not searches


def test_an_edit_that_is_broken_is_refused_before_it_is_folded(llama, tokenizer):
    class Broken(RROME):
        def write(self, *given, **more):
            deltas = super().write(*given, **more)
            deltas[0].updates[next(iter(deltas[0].updates))].b.fill_(float("nan"))
            return deltas

    with pytest.raises(ModelError, match="NaN or infinite, so it was not written"):
        EditJob(Broken(**FAST_METHOD), 1, max_rank=1, output=None).run(llama, tokenizer, requests(2))
