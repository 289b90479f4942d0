"""``benchmarks/scaling.py``: plans that obey their own arithmetic, and a check that runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

STRATEGIES = ("copies", "sharded", "split", "gathered", "by blocks")


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


def test_seconds_add_up():
    from scaling import Machine

    machine = Machine(rate=10, bandwidth=4, link=2, network=1, together=2)
    assert machine.seconds(20, 8, 6, devices=2) == 2 + 2 + 3
    assert machine.seconds(20, 8, 6, devices=3) == 2 + 2 + 6


def test_on_one_device_all_strategies_are_one():
    from scaling import H100, LARGE, costs

    shape = LARGE["LLaMA-2-7B"]
    found = [costs(shape, 8, H100, strategy, 1) for strategy in STRATEGIES]
    assert len({(one.memory, one.forecast, one.edit) for one in found}) == 1


def test_without_communication_devices_share_the_work():
    from dataclasses import replace

    from scaling import H100, LARGE, costs

    shape, free = LARGE["70B"], replace(H100, link=math.inf, network=math.inf)
    one = costs(shape, 8, free, "copies", 1)
    for strategy in STRATEGIES[:-1]:
        four = costs(shape, 8, free, strategy, 4)
        assert (four.forecast, four.edit) == pytest.approx((one.forecast / 4, one.edit / 4)), strategy
    in_turn = costs(shape, 8, free, "by blocks", 4)
    assert (in_turn.forecast, in_turn.edit) == pytest.approx((one.forecast, one.edit))
    assert in_turn.memory == pytest.approx(one.memory / 4)


def test_the_smallest_plan_fits_and_half_of_its_devices_do_not():
    from scaling import H100, LARGE, costs, smallest_plan

    shape = LARGE["405B"]
    assert smallest_plan(shape, H100, "copies") is None
    for strategy in STRATEGIES[1:]:
        found = smallest_plan(shape, H100, strategy)
        assert costs(shape, found.batch, H100, strategy, found.devices) == found
        assert found.memory <= H100.memory
        assert costs(shape, 8, H100, strategy, found.devices // 2).memory > H100.memory
        if found.batch < 32:
            assert costs(shape, 2 * found.batch, H100, strategy, found.devices).memory > H100.memory


def test_the_check_runs(monkeypatch):
    import scaling

    monkeypatch.setattr(scaling, "SMALL", {"0.2M": scaling.SMALL["0.2M"]})
    monkeypatch.setattr(scaling, "this_cpu", lambda: scaling.Machine(1e10, 1e10))
    monkeypatch.setattr(scaling.torch, "set_num_threads", lambda number: None)
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in scaling.check(2, 1) if line.startswith("| 0.2M")
    ]
    assert [row[1] for row in rows] == ["bare pass", "forecast", "edit"]
    assert all(float(row[4]) > 0 for row in rows)
