"""How a choice of layer is judged, against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lga_lightning.locators import LGA, MiddleLayer
from lga_lightning.locators.aggregation import AGGREGATES
from lga_lightning.locators.gradients import STATISTICS
from lga_lightning.locators.selection import choose, golden_layers
from lga_lightning.results.regret import judge_candidates, layer_regret, regret_points


def test_standing():
    sweep = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)).double()
    means = 100 * sweep.numpy().mean(0)
    order = np.argsort(-means)
    for place, layer in enumerate(order):
        found = layer_regret(sweep, int(layer), resamples=4000)
        assert found.score == pytest.approx(means[layer])
        assert found.regret == pytest.approx(means.max() - means[layer])
        assert found.gap == pytest.approx(100 * sweep.numpy().max(1).mean() - means[layer])
        assert [found.hit(k) for k in (1, 3, 5)] == [place < k for k in (1, 3, 5)]
        error = 1.96 * 100 * sweep[:, layer].numpy().std() / 30**0.5
        assert found.score_interval == pytest.approx((means[layer] - error, means[layer] + error), abs=1.5)
        assert found.regret_interval[0] >= 0
        assert found.gap_interval[0] <= found.gap <= found.gap_interval[1]


def test_points_of_the_curve():
    sweep = torch.tensor([[0.2, 0.8, 0.6, 0.4]]).repeat(5, 1)
    sure = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).repeat(20, 1)
    points = regret_points(MiddleLayer(), sure, sweep, (5, 20, 50))
    assert [point.requests for point in points] == [5, 20]  # there are no 50
    assert all(point.regret == pytest.approx(20, abs=1e-4) and point.confidence == 1 for point in points)
    # half of the requests vote for layer 1 and half, a little less strongly, for layer 2: one draw in two loses 20 points
    split = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.9, 0.0]]).repeat(10, 1)
    one, two, everything = regret_points(LGA(kappa=None), split, sweep, (1, 2, 20), draws=2000, resamples=20)
    assert one.regret == pytest.approx(10, abs=1)
    assert one.confidence == 1  # a single request has but one resample: what a user of one request is told, wrongly
    assert two.regret == pytest.approx(20 * 9 / 38, abs=1)  # both of the second kind: 10/20 * 9/19
    assert everything.regret == pytest.approx(0, abs=1e-4)
    assert everything.confidence == pytest.approx(choose(split, None, 2000).confidence, abs=0.15)


def test_every_rule_is_judged_as_it_would_choose():
    generator = torch.Generator().manual_seed(1)
    old, new = (torch.rand(12, 8, generator=generator) + 0.1 for _ in range(2))
    cosine = 2 * torch.rand(12, 8, generator=generator) - 1
    evidence = torch.stack([cosine * old * new, cosine, old, new], dim=1)
    sweep = torch.rand(9, 8, generator=generator)
    found = judge_candidates("mlp", evidence, sweep, requests=100, draws=3)
    rules = {(c.statistic, c.aggregate, c.kappa, c.neighbours) for c in found}
    assert len(rules) == len(found)
    assert {statistic for statistic, *_ in rules} == set(STATISTICS)
    assert {aggregate for _, aggregate, *_ in rules} == set(AGGREGATES) - {"mean"}
    assert [c.expected_regret for c in found] == sorted(c.expected_regret for c in found)
    means = 100 * sweep.double().mean(0)
    by_rule = {(c.statistic, c.aggregate, c.kappa, c.neighbours): c for c in found}
    for kappa in (1.0, None):
        layer = int(golden_layers((cosine * new).sum(0), kappa))
        candidate = by_rule["dot_per_old_norm", "sum", kappa, 0]
        assert candidate.layer == layer
        # there are 12 proxies, not 100: every draw is all of them
        assert (
            candidate.regret
            == pytest.approx(candidate.expected_regret)
            == pytest.approx(float(means.max() - means[layer]))
        )
        assert candidate.requests == 12
