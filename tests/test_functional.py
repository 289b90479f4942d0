"""The method as two functions: they say what a run says, and refuse what a run refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lga_lightning import LGA, MEMIT, RROME, EditForecast, ValueGradient, edit, find_golden_layer
from lga_lightning.data import to_record
from lga_lightning.exceptions import DataError, InvalidRequest, LayerError, SettingError
from lga_lightning.job import EditJob
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import ALL, method_for
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model


def test_the_layer_does_not_depend_on_batches(llama, tokenizer):
    asked = requests(7)
    found = [find_golden_layer(llama, tokenizer, asked, LGA("mlp_out"), batch_size=size) for size in (1, 3, 8)]
    assert len({result.golden_layer for result in found}) == 1
    for result in found[1:]:
        torch.testing.assert_close(torch.tensor(result.choice.scores), torch.tensor(found[0].choice.scores))
    assert found[0].data == "a list of requests"


@pytest.mark.parametrize("locator", [EditForecast(), LGA(), ValueGradient()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("around", [torch.inference_mode(), torch.autocast("cpu")], ids=["inference", "autocast"])
def test_what_is_around_the_search_makes_no_difference(around, locator, llama, tokenizer):
    editor = RROME(**FAST_METHOD)
    plain = find_golden_layer(llama, tokenizer, requests(3), locator, editor=editor)
    with around:
        found = find_golden_layer(llama, tokenizer, requests(3), locator, editor=editor)
    assert found.choice.scores == plain.choice.scores


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_autocast_around_an_edit_makes_no_difference(kind, tokenizer):
    written = []
    for mixed in (False, True):
        model = tiny_model("llama")
        with torch.autocast("cpu", enabled=mixed):
            delta = edit(model, tokenizer, requests(3), 1, method_for(kind, model))
            delta.merge_(model)
        written.append(edit_site(model, 1).weight)
    assert torch.equal(*written)


@pytest.mark.parametrize(
    ("layer", "edited"), [(2, [2]), ("1-2", [1, 2]), ([3], [3]), ("all", [0, 1, 2, 3]), (np.array([2, 1]), [1, 2])]
)
def test_ways_to_name_the_layer(layer, edited, llama, tokenizer):
    delta = edit(llama, tokenizer, requests(2), layer, RROME(**FAST_METHOD))
    assert sorted(delta.by_block(llama)) == edited


def test_the_golden_layer_or_a_window_around_it(llama, tokenizer, tmp_path, monkeypatch):
    editor = RROME(**FAST_METHOD)
    golden = find_golden_layer(llama, tokenizer, requests(4), editor=editor)
    delta = edit(llama, tokenizer, requests(2), golden, editor)
    expected = editor.compute(llama, tokenizer, requests(2), golden.golden_layer)
    assert delta.ranks == expected.ranks
    assert all(torch.equal(delta.matrix(name), expected.matrix(name)) for name in delta.updates)
    window = edit(llama, tokenizer, requests(2), golden, MEMIT(window=2, **FAST_METHOD)).by_block(llama)
    assert golden.golden_layer in window
    assert len(window) == 2
    golden.save(tmp_path / "attribution.json")
    monkeypatch.chdir(tmp_path)
    for word in ("golden", tmp_path):
        assert edit(llama, tokenizer, requests(2), word, editor).ranks == delta.ranks
    with torch.no_grad():
        next(llama.parameters())[0, 0] += 1  # trained since
    for word in ("golden", tmp_path):
        with pytest.raises(LayerError, match="found on other weights of 'LlamaForCausalLM' than are loaded now"):
            edit(llama, tokenizer, requests(2), word, editor)
        with pytest.raises(LayerError, match="found on other weights"):
            EditJob(editor, word, output=None).run(llama, tokenizer, requests(2))


def test_dicts_are_facts(llama, tokenizer):
    asked = requests(3)
    records = [to_record(request) for request in asked]
    editor = RROME(**FAST_METHOD)
    one, other = (edit(llama, tokenizer, facts, 1, editor) for facts in (asked, records))
    assert all(torch.equal(one.matrix(name), other.matrix(name)) for name in one.updates)
    found = [find_golden_layer(llama, tokenizer, facts, LGA("mlp_out")).choice.scores for facts in (asked, records)]
    assert found[0] == found[1]
    with pytest.raises(DataError, match="Fact 2 of a list is EditRequest"):
        edit(llama, tokenizer, [records[0], asked[1]], 1, editor)
    with pytest.raises(DataError, match="fact 2: unknown field 'rephrase'; did you mean 'rephrases'"):
        edit(llama, tokenizer, [records[0], {"prompt": "Rome is", "target_new": "x", "rephrase": "y"}], 1, editor)
    with pytest.raises(InvalidRequest, match="fact 1: The subject 'Oslo' does not occur"):
        edit(llama, tokenizer, [{**records[0], "subject": "Oslo"}], 1, editor)


def test_the_search_goes_by_the_batch_size_of_the_edit(llama, tokenizer, monkeypatch):
    def known(*given, batch_size, **more):
        pytest.fail(f"searched in batches of {batch_size}")

    monkeypatch.setattr("lga_lightning.functional.known_golden_layer", known)
    with pytest.raises(pytest.fail.Exception, match="in batches of 2"):
        edit(llama, tokenizer, requests(1), batch_size=2)


def test_what_is_refused(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no request to score"):
        find_golden_layer(llama, tokenizer, [])
    with pytest.raises(SettingError, match="`batch_size` must be at least 1"):
        find_golden_layer(llama, tokenizer, requests(1), batch_size=0)
    with pytest.raises(DataError, match="no request to edit"):
        edit(llama, tokenizer, [])
    with pytest.raises(SettingError, match="`batch_size` must be at least 1"):
        edit(llama, tokenizer, requests(1), layer=1, batch_size=0)
    with pytest.raises(SettingError, match="`batch_size` must be at least 1"):
        edit(llama, tokenizer, [], batch_size=0)  # before anything else
    with pytest.raises(LayerError, match="Layer 9 is out of range"):
        edit(llama, tokenizer, requests(1), layer=9)
    with pytest.raises(LayerError, match="There is no attribution"):
        edit(llama, tokenizer, requests(1), layer="golden")
