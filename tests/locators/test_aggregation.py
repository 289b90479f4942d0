"""Ways to add up requests, and layers by relation, against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lga_lightning.locators import LGA
from lga_lightning.locators.aggregation import AGGREGATES, choose_by_relation, contributions, requests_to_settle
from lga_lightning.locators.selection import choose


def by_hand(scores: np.ndarray, way: str) -> np.ndarray:
    """The layers' scores, from loops."""
    requests, layers = scores.shape
    if way == "sum":
        return scores.sum(0)
    if way == "mean":
        return scores.mean(0)
    if way == "normalised":
        return sum(row / np.abs(row).sum() for row in scores)
    if way == "rank":
        places = [[sum(x > y for y in row) + (sum(x == y for y in row) - 1) / 2 for x in row] for row in scores]
        return np.array(places).sum(0) / (layers - 1)
    cut = requests // 10
    return np.array([np.sort(column)[cut : requests - cut].mean() * requests for column in scores.T])


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("requests", [3, 25])
def test_aggregates(aggregate, requests):
    scores = torch.randn(requests, 7, generator=torch.Generator().manual_seed(0)).double()
    scores[0, 2] = scores[0, 3]  # a tie
    values = scores.abs() if aggregate.startswith("absolute") else scores
    way = aggregate.removeprefix("absolute").removeprefix("_") or "sum"
    np.testing.assert_allclose(contributions(scores, aggregate).sum(0), by_hand(values.numpy(), way), rtol=1e-12)


def test_a_request_of_zeros():
    for aggregate in AGGREGATES:
        assert contributions(torch.zeros(2, 4), aggregate).isfinite().all()


def test_no_fences():
    scores = torch.tensor([[1.0, 3.0, 2.0, 90.0]]).repeat(3, 1)
    choice = choose(scores, kappa=None)
    assert (choice.golden_layer, choice.excluded, choice.fences, choice.confidence) == (3, [], None, 1.0)
    assert choice.settled


def test_bad_settings():
    with pytest.raises(ValueError, match="`aggregate` must be one of"):
        LGA(aggregate="median")
    with pytest.raises(ValueError, match="`kappa` must be at least 0"):
        LGA(kappa=-1.0)
    with pytest.raises(ValueError, match="`statistic` must be one of"):
        LGA(statistic="norm")
    with pytest.raises(ValueError, match="`neighbours` must be at least 0, got -1"):
        LGA(neighbours=-1)


@pytest.mark.parametrize("neighbours", [0, 1, 2, 9])
def test_neighbours_share_what_they_contribute(neighbours):
    scores = torch.rand(4, 7, generator=torch.Generator().manual_seed(3)).double()
    alone = LGA(aggregate="normalised", neighbours=0).contributions(scores)
    expected = torch.stack(
        [alone[:, max(0, layer - neighbours) : layer + neighbours + 1].mean(1) for layer in range(7)], dim=1
    )
    torch.testing.assert_close(LGA(aggregate="normalised", neighbours=neighbours).contributions(scores), expected)


def test_relations_that_differ_and_relations_that_do_not():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 8, generator=generator)
    names = ["capital", "language", None] * 20
    apart = noise.clone()
    apart[0::3, 2] += 2
    apart[1::3, 5] += 2
    found = choose_by_relation(apart, names, kappa=None, permutations=199)
    assert (found.relations, found.num_requests, found.golden_layers) == (["capital", "language"], [20, 20], [2, 5])
    assert found.p_value == 1 / 200
    assert choose_by_relation(noise, names, kappa=None, permutations=199).p_value > 0.05
    assert found.confidences == [choose(apart[k::3], None).confidence for k in (0, 1)]
    assert choose_by_relation(noise, ["capital"] * 56 + ["language"] * 4) is None  # one with too few requests
    same = choose_by_relation(torch.ones(60, 8), names, permutations=99)
    assert same.p_value == 1


def test_the_permutation_test_is_right_about_chance():
    p_values = []
    for seed in range(60):
        noise = torch.randn(24, 5, generator=torch.Generator().manual_seed(seed))
        p_values.append(choose_by_relation(noise, ["a", "b", "c"] * 8, permutations=39).p_value)
    assert 0.3 < np.mean(p_values) < 0.7
    assert np.mean(np.array(p_values) <= 0.05) < 0.15


def test_requests_to_settle():
    lead = torch.tensor([1.0, 3.0, -1.0, 1.0])
    contributed = torch.stack([lead, torch.zeros(4)], 1)
    needed = requests_to_settle(contributed, 0, 1)
    assert needed == np.ceil((1.645 * lead.std().item() / 1.0) ** 2)
    assert requests_to_settle(contributed, 1, 0) is None
    assert requests_to_settle(contributed[:1], 0, 1) is None
    assert requests_to_settle(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), 0, 1) == 0  # no request says otherwise


def test_a_lead_by_rounding_is_never_settled():
    lead = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
    assert lead.mean() > 0
    assert requests_to_settle(torch.stack([lead, torch.zeros(3).double()], 1), 0, 1) is None
