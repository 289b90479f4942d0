"""The pure functions against definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lga_lightning.locators.selection import choose, golden_layers, tukey_fences


def test_fences_are_linear_quartiles():
    scores = torch.randn(4, 31).double()
    q1, q3 = np.quantile(scores.numpy(), [0.25, 0.75], axis=1)
    fences = tukey_fences(scores, kappa=1.5).numpy()
    np.testing.assert_allclose(fences[:, 0], q1 - 1.5 * (q3 - q1))
    np.testing.assert_allclose(fences[:, 1], q3 + 1.5 * (q3 - q1))


def test_golden_layer_is_signed_and_ties_go_to_the_shallower():
    assert golden_layers(torch.tensor([-9.0, 1.0, 2.0, 2.0, 1.5, 0.0])).item() == 2
    assert golden_layers(torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])).tolist() == [0, 2]


@pytest.mark.parametrize("kappa", [1.0, None])
def test_ties_by_rounding_go_to_the_shallower_too(kappa):
    scored = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    scores = torch.stack([torch.zeros(3), scored, scored.flip(0), torch.zeros(3)], 1)
    assert scores.sum(0)[1] < scores.sum(0)[2]  # the same numbers, in another order
    choice = choose(scores, kappa)
    assert (choice.golden_layer, choice.ranking) == (1, [1, 2, 0, 3])
    assert golden_layers(scores.sum(0), kappa) == 1
    assert golden_layers(torch.tensor([1.0, 1.0 + 1e-6, 0.9]), kappa) == 1  # what is more is more


def test_a_layer_outside_the_fences_does_not_say_what_is_a_tie():
    assert golden_layers(torch.tensor([1.0, 1.1, 1.2, 1.3, 1e12])) == 3


def test_choice():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 12, generator=generator) + torch.arange(12)
    scores[:, 3] += 500
    choice = choose(scores, kappa=1.0)
    assert choice.excluded == [3]
    assert choice.golden_layer == choice.ranking[0] == 11
    assert choice.ranking[-1] == 3
    assert sorted(choice.ranking) == list(range(12))
    np.testing.assert_allclose(choice.scores, scores.double().sum(0), rtol=1e-12)
    np.testing.assert_allclose(choice.standard_errors, scores.double().numpy().std(0, ddof=1) * math.sqrt(40))


def test_confidence_against_a_plain_bootstrap():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(30, 8, generator=generator).double() + torch.linspace(0, 0.4, 8)
    choice = choose(scores, resamples=4000)
    rng = np.random.default_rng(0)
    votes = np.zeros(8)
    for _ in range(4000):
        total = scores.numpy()[rng.integers(30, size=30)].sum(0)
        q1, q3 = np.quantile(total, [0.25, 0.75])
        inside = np.where((total >= 2 * q1 - q3) & (total <= 2 * q3 - q1), total, -np.inf)
        votes[inside.argmax()] += 1 / 4000
    assert choice.confidence == pytest.approx(votes[choice.golden_layer], abs=0.04)
    held = votes[choice.confidence_set].sum()
    assert held >= 0.9 - 0.04
    assert held - votes[choice.confidence_set[-1]] < 0.9 + 0.04


def test_one_request_has_no_standard_error():
    assert all(math.isnan(error) for error in choose(torch.tensor([[1.0, 2.0, 3.0]])).standard_errors)


@pytest.mark.parametrize("scores", [torch.zeros(0, 4), torch.zeros(4), torch.full((2, 3), math.nan)])
def test_bad_scores(scores):
    with pytest.raises(ValueError, match="`scores` must be"):
        choose(scores)
