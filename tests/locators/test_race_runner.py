"""The edits of a race, against a sweep's."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from lga_lightning import LGA, MEMIT, RROME, CrispEdit, LayerSweep, LocFT, MiddleLayer, UltraEdit, find_golden_layer
from lga_lightning.exceptions import SettingError
from lga_lightning.functional import race_settings
from lga_lightning.locators import layer_sweep, race_runner
from lga_lightning.locators.layer_sweep import score_edits
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.race_runner import EditRace, expected_scores
from tests.editing.helpers import method_for
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests
from tests.helpers.runs import cut_off_in_round

EDITOR = RROME(**FAST_METHOD)
SETTINGS = RaceSettings(budget=20, requests=2, confidence=0.999999)


def race_of(model, tokenizer, count: int = 8, settings: RaceSettings = SETTINGS, editor=EDITOR, **options) -> EditRace:
    expected = torch.tensor([0.5, 0.52, 0.48, 0.45]).expand(count, -1)
    return EditRace(model, tokenizer, requests(count), editor, expected, settings, **options)


@pytest.mark.parametrize(
    ("batch_size", "kind"), [(1, RROME), (8, RROME), (1, UltraEdit), (8, UltraEdit), (8, LocFT), (8, CrispEdit)]
)
def test_edits_score_what_a_sweep_says(batch_size, kind, llama, tokenizer):
    editor = EDITOR if kind is RROME else method_for(kind, llama)
    race = race_of(llama, tokenizer, batch_size=batch_size, editor=editor)
    race.run()
    sweep = LayerSweep(editor)
    sweep.prepare(llama, tokenizer, requests())
    swept = sweep.score(llama, tokenizer, requests()).values.double()
    made = race.values.isfinite()[:, 0]
    assert 0 < made.sum() <= 20
    assert not made.all()
    for column in range(4):
        torch.testing.assert_close(race.values[:, column][made], swept[:, column][made], rtol=1e-5, atol=1e-6)
    assert torch.equal(race.race.table.isfinite(), made)
    assert race.race.edits == made.sum()
    assert race.edited == made.any(1).nonzero().flatten().tolist()


def test_a_round_needs_its_layers_alone_and_the_unedited_model_once(llama, tokenizer, monkeypatch):
    asked: list[list[int]] = []
    made: list[int] = []

    class Editor(RROME):
        def prepare(self, model, tokenizer, layers):
            asked.append(list(layers))
            super().prepare(model, tokenizer, layers)

    class Evaluator(layer_sweep.Evaluator):
        def __init__(self, *arguments):
            made.append(1)
            super().__init__(*arguments)

    monkeypatch.setattr(layer_sweep, "Evaluator", Evaluator)
    settings = RaceSettings(budget=8, requests=4, candidates=2)
    race = race_of(llama, tokenizer, settings=settings, editor=Editor(**FAST_METHOD))
    race.run()
    assert made == [1]
    assert all(set(layers) <= {0, 1} for layers in asked)
    assert race.values[:, 0].isfinite().sum(0).tolist() == [4, 4, 0, 0]


def test_a_layer_stands_for_the_window_that_ends_there(llama, tokenizer):
    editor = MEMIT(window=3, **FAST_METHOD)
    assert [editor.window_at(layer) for layer in range(4)] == [[0], [0, 1], [0, 1, 2], [1, 2, 3]]
    race = race_of(llama, tokenizer, settings=RaceSettings(budget=4, requests=1), editor=editor)
    race.run()
    (row,) = race.edited
    expected = score_edits(llama, tokenizer, [requests()[row]], editor, [[0], [0, 1], [0, 1, 2], [1, 2, 3]])
    torch.testing.assert_close(race.values[row], expected[0], rtol=1e-5, atol=1e-6)


def test_an_interrupted_race_goes_on_to_the_same_end(llama, tokenizer, monkeypatch):
    whole = race_of(llama, tokenizer)
    whole.run()
    rounds = cut_off_in_round(3, monkeypatch)
    first = race_of(llama, tokenizer)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert 0 < first.race.edits < whole.race.edits
    second = race_of(llama, tokenizer)
    second.take_up(first.edited, first.values[first.edited], first.seconds)
    second.run()
    assert rounds[2] == rounds[3]
    torch.testing.assert_close(second.values, whole.values, equal_nan=True)
    assert second.race.standing() == whole.race.standing()
    assert second.seconds > first.seconds


def test_why_a_race_is_over(llama, tokenizer):
    ended = {}
    for name, settings, count in (
        ("settled", RaceSettings(budget=100, confidence=0.05), 8),
        ("budget", RaceSettings(budget=4, requests=1, confidence=0.999999), 8),
        ("time", RaceSettings(budget="0.000001 s", requests=1, confidence=0.999999), 8),
        ("requests", RaceSettings(budget=100, confidence=0.999999), 3),
    ):
        race = race_of(llama, tokenizer, count, settings)
        race.run()
        ended[name] = race.ended
    assert ended == {"settled": "settled", "budget": "budget", "time": "budget", "requests": "requests"}
    assert len(race.edited) == 3


def test_the_time_ends_a_race_after_the_round(llama, tokenizer):
    race = race_of(llama, tokenizer, settings=RaceSettings(budget="0.000001 s", requests=1, confidence=0.999999))
    race.run()
    assert race.race.edits == 4
    race.run()
    assert race.race.edits == 4


@pytest.mark.parametrize(("count", "size"), [(4, 2), (3, 2), (1, 2), (2, 5)])
def test_every_process_edits_as_many_requests_and_none_is_lost(count, size):
    rows = [7, 3, 9, 4][:count]
    shares = [race_runner.dealt(rows, rank, size) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert set().union(*shares) == set(rows)


def test_the_bar_says_who_leads_where_there_is_a_terminal(llama, tokenizer, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = {}
    for name, stream, show in (
        ("terminal", Terminal(), True),
        ("file", io.StringIO(), True),
        ("off", Terminal(), False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        race_of(llama, tokenizer).run(show=show)
        said[name] = stream.getvalue()
    assert "race: layers 1 0 2 lead, " in said["terminal"]
    assert "/20" in said["terminal"]
    assert said["file"] == said["off"] == ""


def test_where_a_race_begins():
    scores = torch.tensor([[0.25, 0.5, 1.0], [0.75, 0.5, 0.0]])
    torch.testing.assert_close(expected_scores(LayerSweep(), scores), scores.double())
    # of scores in other units the order counts, and the layers outside the fences come last
    order = expected_scores(LGA(kappa=1.0), torch.tensor([[1.0, 3.0, 2.0, 900.0]] * 2))
    assert order.shape == (2, 4)
    assert order[0].argsort(descending=True).tolist() == [1, 2, 0, 3]
    assert order[0].mean().item() == pytest.approx(0.5)
    assert order[0].std(correction=0).item() == pytest.approx(0.04)
    assert expected_scores(LGA(kappa=None), torch.ones(2, 1)).tolist() == [[0.5], [0.5]]


def test_real_edits_have_the_last_word(llama, tokenizer):
    forecast = find_golden_layer(llama, tokenizer, requests(), MiddleLayer(), editor=EDITOR)
    result = find_golden_layer(llama, tokenizer, requests(), MiddleLayer(), editor=EDITOR, verify=SETTINGS)
    assert forecast.race is None
    assert result.choice == forecast.choice
    race = result.race
    assert race.layers == [race.layer] == [result.golden_layer]
    assert result.confidence == race.confidence
    assert sum(race.edited) == race.edits <= 20
    assert (race.tolerance, race.settled, race.editor["name"]) == (1.0, race.ended == "settled", "R-ROME")
    assert race.settings["budget"] == 20
    swept = find_golden_layer(llama, tokenizer, requests(), LayerSweep(EDITOR)).means
    full = [layer for layer, count in enumerate(race.edited) if count == 8]
    for name, column in race.parts.items():
        for layer in full:
            assert column[layer] == pytest.approx(swept[name][layer], abs=1e-6)
    assert full
    assert (race_settings(True), race_settings(False), race_settings(SETTINGS)) == (RaceSettings(), None, SETTINGS)


def test_bad_settings(llama, tokenizer):
    with pytest.raises(SettingError, match="`batch_size` must be at least 1"):
        race_of(llama, tokenizer, batch_size=0)
    with pytest.raises(SettingError, match="A budget of 1 edits of 8 requests is not enough"):
        race_of(llama, tokenizer, settings=RaceSettings(budget=1)).run()
