"""Products, sums and multiples of updates, without taking low-rank ones apart."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing import DenseUpdate, LowRankUpdate
from tests.helpers.pretend_devices import PretendedDevices


def updates() -> list:
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        LowRankUpdate(random(4, 2), random(2, 6)),
        LowRankUpdate(random(4, 3), random(3, 6)),
        DenseUpdate(random(4, 6)),
    ]


@pytest.mark.parametrize("one", range(3))
@pytest.mark.parametrize("other", range(3))
def test_inner_products(one, other):
    one, other = updates()[one], updates()[other]
    assert one.inner(other) == pytest.approx((one.matrix * other.matrix).sum().item(), rel=1e-12)


@pytest.mark.parametrize("which", range(3))
def test_multiples_are_of_the_same_kind(which):
    update = updates()[which]
    found = update.scaled(-2.5)
    assert type(found) is type(update)
    assert found.rank == update.rank
    torch.testing.assert_close(found.matrix, -2.5 * update.matrix)


def test_no_product_of_low_rank_factors_is_taken(monkeypatch):
    one, other, _ = updates()
    monkeypatch.setattr(LowRankUpdate, "matrix", property(lambda _: pytest.fail("the product was taken")))
    one.inner(other)
    one.scaled(2.0)


@pytest.mark.parametrize("one", range(3))
@pytest.mark.parametrize("other", range(3))
def test_sums_are_on_the_device_of_the_first(one, other):
    expected = updates()[one].matrix + updates()[other].matrix
    with PretendedDevices():
        places = "cpu", "cuda:0"
        parts = (updates()[number] for number in (one, other))
        placed = [p.with_factors(*(f.to(place) for f in p.factors)) for p, place in zip(parts, places, strict=True)]
        for first, second in (placed, reversed(placed)):
            total = first + second
            assert {factor.device for factor in total.factors} == {first.factors[0].device}
    torch.testing.assert_close(total.matrix, expected)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_no_rank_is_above_either_width(shape):
    wide = LowRankUpdate(torch.randn(shape[0], 9), torch.randn(9, shape[1]))
    assert wide.compact().rank == 4
    torch.testing.assert_close(wide.compact().matrix, wide.matrix)
    assert LowRankUpdate(wide.b[:, :4], wide.a[:4]).compact().rank == 4
