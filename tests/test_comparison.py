"""How a choice of layer is judged, against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lga_lightning.comparison import expected_regret, standing
from lga_lightning.locators import LGA, MiddleLayer


def test_standing():
    sweep = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)).double()
    means = 100 * sweep.numpy().mean(0)
    order = np.argsort(-means)
    for place, layer in enumerate(order):
        found = standing(sweep, int(layer), resamples=4000)
        assert found.score == pytest.approx(means[layer])
        assert found.regret == pytest.approx(means.max() - means[layer])
        assert found.gap == pytest.approx(100 * sweep.numpy().max(1).mean() - means[layer])
        assert [found.hit(k) for k in (1, 3, 5)] == [place < k for k in (1, 3, 5)]
        error = 1.96 * 100 * sweep[:, layer].numpy().std() / 30**0.5
        assert found.score_interval == pytest.approx((means[layer] - error, means[layer] + error), abs=1.5)
        assert found.regret_interval[0] >= 0
        assert found.gap_interval[0] <= found.gap <= found.gap_interval[1]


def test_expected_regret():
    sweep = torch.tensor([[0.2, 0.8, 0.6, 0.4]]).repeat(5, 1)
    sure = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).repeat(20, 1)
    assert expected_regret(MiddleLayer(), sure, sweep, 5) == pytest.approx(20, abs=1e-4)
    # half of the requests vote for layer 1 and half, a little less strongly, for layer 2: one draw in two loses 20 points
    split = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.9, 0.0]]).repeat(10, 1)
    found = expected_regret(LGA(kappa=None), split, sweep, 1, draws=2000)
    assert found == pytest.approx(10, abs=1)
    assert expected_regret(LGA(kappa=None), split, sweep, 20) == pytest.approx(0, abs=1e-4)
