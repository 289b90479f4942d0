"""The race of edits: its belief against plain Gaussian conditioning, its rounds, and whether what it says is so."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.exceptions import SettingError
from lga_lightning.locators.race import Race, RaceSettings, Round


def expected(requests: int = 40, layers: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    curve = 0.7 - 0.01 * (torch.arange(layers) - 4.0).square()
    return (curve + 0.1 * torch.randn(requests, layers, generator=generator)).clamp(0, 1)


def run(race: Race, scores: torch.Tensor) -> list[Round]:
    rounds = []
    while (turn := race.next_round()) is not None:
        rounds.append(turn)
        race.add(turn, scores[turn.requests][:, turn.layers])
    return rounds


def test_the_belief_is_that_of_gaussian_conditioning():
    race = Race(expected(6, 5), RaceSettings(requests=2))
    table = torch.full((6, 5), torch.nan, dtype=torch.float64)
    table[0, [1, 3, 4]] = torch.tensor([0.3, 0.9, 0.5], dtype=torch.float64)
    table[4, [0, 3]] = torch.tensor([0.1, 0.6], dtype=torch.float64)
    race.table = table
    start, prior = Race(expected(6, 5), RaceSettings()).belief()
    mean, covariance = race.belief()
    # the same with the requests' levels as unknowns of their own, of which nothing is known before
    edits = table.isfinite().nonzero().tolist()
    design = torch.zeros(len(edits), 5 + 6, dtype=torch.float64)
    for number, (request, layer) in enumerate(edits):
        design[number, layer] = design[number, 5 + request] = 1
    wide = torch.block_diag(prior, 1e9 * torch.eye(6, dtype=torch.float64))
    seen = 100 * table[table.isfinite()]
    values, mask = 100 * table[[0, 4]].nan_to_num(), table[[0, 4]].isfinite().double()
    centred = (values - values.sum(1, keepdim=True) / mask.sum(1, keepdim=True)) * mask
    noise = race._variance(centred, mask) * torch.eye(len(edits), dtype=torch.float64)
    gain = wide @ design.T @ torch.linalg.inv(design @ wide @ design.T + noise)
    before = torch.cat([start, torch.zeros(6, dtype=torch.float64)])
    torch.testing.assert_close(mean, (before + gain @ (seen - design @ before))[:5], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(covariance, (wide - gain @ design @ wide)[:5, :5], rtol=1e-5, atol=1e-4)


def test_rounds_halve_and_pair_and_end_at_the_budget():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(40, 12, generator=generator)
    race = Race(expected(), RaceSettings(budget=60, candidates=8, requests=3, confidence=0.999999))
    rounds = run(race, scores)
    assert [len(turn.layers) for turn in rounds[:3]] == [8, 4, 2]
    assert all(len(turn.layers) == 2 for turn in rounds[2:])
    requests = [request for turn in rounds for request in turn.requests]
    assert len(set(requests)) == len(requests)  # each is edited in one round, at all of its layers
    assert race.edits == sum(turn.edits for turn in rounds)
    assert 58 <= race.edits <= 60
    assert race.next_round() is None
    assert race.standing().edited == race.table.isfinite().sum(0).tolist()


def test_it_goes_on_from_its_table():
    scores = torch.rand(40, 12, generator=torch.Generator().manual_seed(2))
    whole = Race(expected(), RaceSettings(budget=48))
    rounds = run(whole, scores)
    half = Race(expected(), RaceSettings(budget=48))
    for turn in rounds[:2]:
        half.add(turn, scores[turn.requests][:, turn.layers])
    again = Race(expected(), RaceSettings(budget=48))
    again.table = half.table.clone()
    assert run(again, scores) == rounds[2:]
    assert again.standing() == whole.standing()


def test_a_clear_winner_ends_it():
    curve = torch.full((12,), 0.2)
    curve[4] = 0.9
    race = Race(expected(), RaceSettings(budget=400))
    rounds = run(race, curve.expand(40, 12))
    standing = race.standing()
    assert standing.layer == 4
    assert standing.confidence >= 0.95
    assert race.edits < 200
    assert len(rounds) >= 1  # never on the forecast alone


def test_no_more_than_a_tenth_of_a_sweep_by_default():
    race = Race(expected(48, 30), RaceSettings(confidence=0.999999))
    run(race, torch.rand(48, 30, generator=torch.Generator().manual_seed(3)))
    assert race.edits <= 144


def test_what_it_says_is_so_where_its_model_holds():
    """Where layers and edits are drawn as the belief has it, the stated confidence is the share of races that are right."""
    generator = torch.Generator().manual_seed(4)
    start, prior = Race(expected(24, 10), RaceSettings()).belief()
    factor = torch.linalg.cholesky(prior)
    right, stated = [], []
    for draw in range(120):
        truth = start + factor @ torch.randn(10, generator=generator, dtype=torch.float64)
        levels = 15 * torch.randn(24, 1, generator=generator, dtype=torch.float64)
        scores = (truth + levels + Race.SPREAD * torch.randn(24, 10, generator=generator, dtype=torch.float64)) / 100
        race = Race(expected(24, 10), RaceSettings(budget=60, requests=3), seed=draw)
        run(race, scores)
        standing = race.standing()
        right.append(float(truth.max() - truth[standing.layer] <= 1))
        stated.append(standing.confidence)
    gap = sum(right) / len(right) - sum(stated) / len(stated)
    assert abs(gap) < 0.12  # three standard errors of 120 races


@pytest.mark.parametrize("budget", ["many", "5 parsecs", 0, -3, "1 2 3", "", "inf", "nan", 0.5])
def test_a_budget_that_is_none(budget):
    with pytest.raises(SettingError, match="budget of a race"):
        RaceSettings(budget=budget)


def test_budgets():
    assert RaceSettings(budget="200").limits == (200, None)
    assert RaceSettings(budget="5 min").limits == (None, 300)
    assert RaceSettings(budget="1.5 h").limits == (None, 5400)
    with pytest.raises(SettingError, match="A race needs"):
        RaceSettings(candidates=1)
