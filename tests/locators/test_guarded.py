"""Sweeps, races and forecasts are of guarded edits where the run's edits are guarded."""

from __future__ import annotations

import pytest
import torch

from lga_lightning import MEMIT, RROME, EditForecast, LayerSweep, find_golden_layer
from lga_lightning.editing import FTM, EditMethod, Guarded, NormGuard, SingularGuard
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.race_runner import EditRace
from lga_lightning.models.architecture import edit_site
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model

GUARDS = [SingularGuard(0.4), NormGuard(0.02)]


def facts_at(model, layer: int, count: int = 3) -> LinearisedFacts:
    site, generator = edit_site(model, layer), torch.Generator().manual_seed(layer)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return LinearisedFacts(
        site=site,
        inputs=random(count, 5, site.in_features),
        gradients=random(count, 5, site.out_features),
        stream=random(count, 24),
        stream_gradients=random(count, 24),
        subject=torch.tensor([2, 4, 3]),
        answer=torch.tensor([[3, 4], [4, -1], [3, 4]]),
        nll=random(count).abs(),
    )


@pytest.mark.parametrize("editor", [RROME(second_moment="identity"), MEMIT(second_moment="identity"), FTM()])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_expected_edit_is_guarded_as_one_that_is_made(editor, family):
    model = tiny_model(family, torch.float64)
    facts, guarded = facts_at(model, 1), Guarded(editor, GUARDS)
    changes = editor.expected_change(model, facts)
    assert torch.equal(guarded.expected_change(model, facts), changes)

    def expected(method: EditMethod) -> torch.Tensor:
        share = method.expected_share(model, facts, changes, 1)
        return share.mT @ method.expected_directions(model, facts)

    plain, found, weight = expected(editor), expected(guarded), edit_site(model, 1).weight
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    count = int((sizes.square().cumsum(0) < 0.4 * sizes.square().sum()).sum()) + 1
    u, v = left[:, :count], right[:count].T
    for asked, left_over in zip(plain, found, strict=True):
        change = asked - u @ u.T @ asked
        change = change - change @ v @ v.T
        scale = min(1.0, 0.02 * (weight.norm() / change.norm()).item())
        torch.testing.assert_close(left_over, scale * change, rtol=1e-10, atol=1e-10)
    assert all((one - other).norm() > 1e-3 * one.norm() for one, other in zip(plain, found, strict=True))


def test_a_sweep_and_a_race_make_guarded_edits(llama, tokenizer):
    method, data = RROME(**FAST_METHOD), requests(4)
    editor = Guarded(method, GUARDS)
    sweep = LayerSweep().for_editor(editor)
    sweep.prepare(llama, tokenizer, data)
    swept = sweep.score(llama, tokenizer, data).values.double()
    evaluator = Evaluator(llama, tokenizer, data, EvaluationConfig(generate=False, families=("rewrite",)))
    for layer in range(4):
        deltas = method.compute_each(llama, tokenizer, data, layer)
        for guard in GUARDS:
            deltas = [guard.apply(llama, delta) for delta in deltas]
        expected = mean_scores(evaluator(deltas), "rewrite", "token")[:, 1]
        torch.testing.assert_close(swept[:, 1, layer], expected)
    race = EditRace(llama, tokenizer, data, editor, torch.full((4, 4), 0.5), RaceSettings(budget=16, requests=4))
    race.run()
    made = race.values[:, 0].isfinite()
    assert made.any()
    torch.testing.assert_close(race.values[:, 0][made], swept[:, 0][made], rtol=1e-5, atol=1e-6)
    assert sweep.settings(llama)["editor"]["guards"] == [guard.settings() for guard in GUARDS]


def test_a_forecast_knows_that_next_to_nothing_may_change(llama, tokenizer):
    method, data = RROME(second_moment="identity"), requests(4)
    editor = Guarded(method, [NormGuard(1e-9)])
    free, bound = (EditForecast().for_editor(one) for one in (method, editor))
    _, much = free.forecast(llama, tokenizer, data)
    _, little = bound.forecast(llama, tokenizer, data)
    assert much.gain.abs().max() > 0.1
    assert 0 < little.gain.abs().max() < 1e-5
    result = find_golden_layer(llama, tokenizer, data, editor=editor)
    assert result.settings["editor"]["name"] == "R-ROME with NormGuard"
