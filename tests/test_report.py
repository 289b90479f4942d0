"""The picture and the table, also for results at the edge."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.attribution import choose
from lga_lightning.report import draw_layers, print_attribution
from lga_lightning.results import Attribution


def attribution(scores: torch.Tensor, aggregate: str = "sum") -> Attribution:
    return Attribution(
        model="m",
        data="d",
        locator="LGA",
        scope="mlp",
        aggregate=aggregate,
        num_requests=len(scores),
        num_skipped={"empty target": 2},
        choice=choose(scores, resamples=50),
        signed_scores=scores.sum(0).tolist(),
        means={"cosine": scores.mean(0).tolist()},
        versions={},
    )


@pytest.mark.parametrize(
    "scores",
    [
        torch.randn(20, 30),
        torch.randn(1, 4),  # no standard error
        torch.zeros(3, 5),  # no spread
        torch.cat([torch.randn(6, 9), torch.full((6, 2), -1e6)], 1),
        torch.randn(5, 96) * 1e-9,
    ],
)
def test_picture_and_table(scores, tmp_path, capsys):
    result = attribution(scores)
    draw_layers(result, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    print_attribution(result, tmp_path)
    said = capsys.readouterr().out
    assert f"Golden layer: {result.choice.golden_layer}" in said
    assert "2 (empty target)" in said


def test_the_file_round_trips(tmp_path):
    result = attribution(torch.randn(7, 6))
    result.save(tmp_path / "attribution.json")
    assert Attribution.load(tmp_path / "attribution.json") == result


def test_says_when_the_signed_sum_misleads(tmp_path, capsys):
    scores = -torch.rand(8, 6) - 0.1
    for aggregate, said in (("sum", True), ("magnitude", False)):
        print_attribution(attribution(scores, aggregate), tmp_path)
        assert ("aggregate magnitude" in capsys.readouterr().out) is said
