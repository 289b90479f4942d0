"""What the user's words for layers mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lga_lightning.editing import MEMIT, RROME
from lga_lightning.exceptions import LayerError
from lga_lightning.results.layer_spec import LayerSpec, golden_window
from tests.helpers.results import forecast_result, locator_result, race_result

SCORES = torch.tensor([[1.0, 2.0, 9.0, 8.0], [1.0, 2.5, 9.0, 8.5]])


@pytest.mark.parametrize(
    ("word", "layers"),
    [
        *[(3, [3]), ("3", [3]), ([3, 1, 3], [1, 3]), ("1-3", [1, 2, 3]), ("2-2", [2]), ("all", [0, 1, 2, 3])],
        *[("3 ", [3]), (" 1-3", [1, 2, 3]), ("1 - 3", [1, 2, 3])],
        *[(np.int64(3), [3]), (torch.tensor(3), [3]), ([np.int64(1), torch.tensor(2)], [1, 2])],
        *[(np.array([3, 1]), [1, 3]), (torch.tensor([3, 1]), [1, 3]), (range(2), [0, 1])],
    ],
)
def test_words_that_need_no_file(word, layers, llama, tmp_path):
    spec = LayerSpec.parse(word)
    assert spec.find(tmp_path / "nowhere", "m") is spec
    assert spec.layers_for(None, llama) == (layers, "given")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("3-1", "The range of layers '3-1' is empty"),
        ([], "list of layers is empty"),
        ("", "is empty"),
        (-1, "-1 is no layer"),
        ("-1", "-1 is no layer"),
        ([2, -4], "-4 is no layer"),
        (True, "True is no layer"),
        ([1, "2"], "'2' is no layer"),
        (2.0, "2.0 is no layer"),
        (None, "None is no layer"),
        ([np.float64(2)], "is no layer"),
    ],
)
def test_words_that_can_mean_nothing(word, said):
    with pytest.raises(LayerError, match=said):
        LayerSpec.parse(word)


def test_default_layers_are_the_methods(llama):
    editor = RROME()
    assert LayerSpec.parse("default").layers_for(editor, llama) == (
        editor.default_layers(llama),
        "default of the method",
    )
    with pytest.raises(LayerError, match="there is none here"):
        LayerSpec.parse("default").layers_for(None, llama)


def test_layers_that_the_model_lacks(llama):
    with pytest.raises(LayerError, match="Layer 4 is out of range"):
        LayerSpec.parse("2-9").layers_for(None, llama)


def test_golden_is_the_layer_or_the_window_that_the_method_wants(llama, tmp_path):
    result = locator_result(SCORES)
    path = tmp_path / "attribution.json"
    result.save(path)
    golden = result.choice.golden_layer
    wide = golden_window(result.choice, MEMIT().window)
    assert len(wide) > 1
    for word in ("golden", str(path), str(tmp_path), path, tmp_path):
        spec = LayerSpec.parse(word).find(tmp_path, "m")
        assert spec.result == result
        assert spec.layers_for(RROME(), llama) == ([golden], f"golden layer of {path}")
        assert spec.layers_for(None, llama) == ([golden], f"golden layer of {path}")
        assert spec.layers_for(MEMIT(), llama) == (wide, f"golden window of {path}")
    spec = LayerSpec.of(result, "this run")
    assert spec.find(tmp_path / "nowhere", "another") is spec
    assert spec.layers_for(RROME(), llama) == ([golden], "golden layer of this run")


@pytest.mark.parametrize(
    ("won", "alone", "three"),
    [
        ([3], [3], [1, 2, 3]),  # a race of single layers: its winner, and the window around it
        ([0, 1, 2], [2], [0, 1, 2]),  # where the scores alone would take 1-3
        ([0, 1], [1], [0, 1]),  # a window that the bottom of the model cuts short
    ],
)
def test_golden_is_what_won_the_race(won, alone, three, llama):
    result = locator_result(SCORES, race=race_result(won[-1], [2] * 4, layers=won))
    assert golden_window(result.choice, 3) == [1, 2, 3]
    spec = LayerSpec.of(result, "this run")
    assert spec.layers_for(None, llama) == (alone, "golden layer of this run")
    assert spec.layers_for(RROME(), llama)[0] == alone
    assert spec.layers_for(MEMIT(window=3), llama) == (three, "golden window of this run, found for R-ROME")


@pytest.mark.parametrize(
    ("asked", "said"),
    [("identity", ""), ("bundled", ", found for R-ROME with second_moment identity, not bundled")],
)
def test_golden_says_with_which_second_moment_it_was_found(asked, said, llama):
    race = race_result(3, [2] * 4, editor=RROME(second_moment="identity").settings_by_layer(llama))
    spec = LayerSpec.of(locator_result(SCORES, race=race), "this run")
    assert spec.layers_for(RROME(second_moment=asked), llama) == ([3], f"golden layer of this run{said}")


def test_a_forecast_of_windows_names_a_window_of_that_length_alone(llama):
    method = MEMIT(window=3)
    settings = {"editor": {"name": method.name, "window": 3}}
    result = forecast_result(SCORES.unsqueeze(1).expand(-1, 3, -1) / 10, settings=settings)
    assert result.golden_layer == 2
    assert result.golden_layers == [0, 1, 2]
    spec = LayerSpec.of(result, "this run")
    assert spec.layers_for(method, llama)[0] == [0, 1, 2] != golden_window(result.choice, 3)
    assert (
        spec.layers_for(method, llama)[1] == spec.layers_for(MEMIT(window=2), llama)[1] == "golden window of this run"
    )
    assert spec.layers_for(RROME(), llama)[1] == "golden layer of this run, found for MEMIT"
    for other in (RROME(), MEMIT(window=2)):  # for which the scores are of other edits
        assert spec.layers_for(other, llama)[0] == golden_window(result.choice, other.window)


def test_a_golden_layer_is_of_one_model(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    locator_result(SCORES).save(tmp_path / "attribution.json")
    with pytest.raises(LayerError, match="made for the model 'm', not for 'another'"):
        LayerSpec.parse("golden").find(tmp_path, "another")
    locator_result(SCORES, model=str(tmp_path)).save(tmp_path / "attribution.json")
    for name in (f"{tmp_path}/.", "~"):
        assert LayerSpec.parse("golden").find(tmp_path, name).result is not None  # the same folder
    with pytest.raises(RuntimeError, match="Call find"):
        LayerSpec.parse("golden").layers_for(None, llama)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Run `lga fit` first"),
        ("{", "not valid JSON"),
        ("[]", "not an attribution of schema 1"),
        ('{"schema": 2}', "not an attribution of schema 1"),
        ('{"schema": 1}', "lacks the field"),
    ],
)
def test_bad_attribution_files(content, message, tmp_path):
    path = tmp_path / "attribution.json"
    if content is not None:
        path.write_text(content)
    for layer in ("golden", str(path)):
        with pytest.raises(LayerError, match=message):
            LayerSpec.parse(layer).find(tmp_path, "m")
