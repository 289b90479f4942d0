"""The default locator: what it makes of forecasts, of any batch, on any number of processes, in any precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lga_lightning.editing import MEMIT, RROME, CrispEdit
from lga_lightning.locators import EditForecast
from lga_lightning.locators.first_order import Ask, ForecastRows
from lga_lightning.locators.forecast import LINKS, Link
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.architecture import blocks
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.layer_spec import LayerSpec
from tests.editing.helpers import QUICK
from tests.helpers.models import requests, tiny_model
from tests.helpers.quantised import Int8Linear


def identity(**settings: object) -> RROME:
    return RROME(second_moment="identity", **{**QUICK, **settings})


def test_links():
    link = Link(0.5, 2.0)
    behind, gain = torch.tensor([4.0, 4.0, 0.0]), torch.tensor([[2.0, 4.0], [-1.0, 0.0], [1.0, 1.0]])
    found = link(behind, gain)
    assert found[0, 0] == pytest.approx(0.5)  # half of what it is behind
    assert found[0, 1] == pytest.approx(0.8)
    assert found[1].tolist() == [0, 0]
    assert found[2].tolist() == [1, 1]  # it leads already


def test_columns_come_from_rows(family, tokenizer, monkeypatch):
    """Means over a request's rows of the links, and the score is the mean of what a request has."""
    model, data = tiny_model(family), requests(3)
    data[1] = replace(data[1], rephrases=(), locality={})
    seen: list[tuple[object, ForecastRows]] = []
    from lga_lightning.locators import forecast

    real = forecast.forecast_rows
    monkeypatch.setattr(
        forecast, "forecast_rows", lambda m, e, rows, n: seen.append((rows, real(m, e, rows, n))) or seen[-1][1]
    )
    locator = EditForecast(identity())
    locator.prepare(model, tokenizer, data)
    values = locator.score(model, tokenizer, data).values
    ((rows, found),) = seen
    assert values.shape == (3, 7, len(blocks(model)))
    for number in range(3):
        for ask in Ask:
            mine = (rows.owner == number) & (rows.ask == ask)
            if not mine.any():
                assert number == 1
                assert ask is Ask.REPHRASE
                assert values[number, 1 + ask].isnan().all()
                continue
            leads, right = LINKS[ask](found.behind[mine], found.gain[mine]), found.right[mine].unsqueeze(1)
            wanted = 1 - leads if ask is Ask.KEEP else right + (1 - right) * leads
            torch.testing.assert_close(values[number, 1 + ask].double(), wanted.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(values[:, 0], values[:, 1:4].nanmean(1))
    kept = (rows.owner == 1) & (rows.ask == Ask.KEEP)
    assert int(kept.sum()) == 2  # two other facts, for want of probes
    assert values[:, 0].isfinite().all()


@pytest.mark.parametrize("editor", [identity(), MEMIT(window=2, second_moment="identity", moment_weight=2.0, **QUICK)])
def test_batches_and_processes_do_not_matter(editor, tokenizer, exact):
    model, data = tiny_model("gemma3_text", torch.float64), [replace(r, locality={}) for r in requests(7)]
    tables = []
    for size in (1, 3, 7):
        index, values, _ = score_all(EditForecast(editor), model, tokenizer, data, size).compute()
        assert index.tolist() == list(range(7))
        tables.append(values)
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(tables[0], tables[2], rtol=1e-6, atol=1e-6, equal_nan=True)
    shares = [
        score_all(EditForecast(editor), model, tokenizer, data, 2, rank=r, world_size=2).compute() for r in range(2)
    ]
    for index, values, _ in shares:
        torch.testing.assert_close(values, tables[0][index], rtol=1e-6, atol=1e-6, equal_nan=True)


def test_bfloat16(tokenizer):
    data = requests(6)
    fine, coarse = (
        EditForecast(identity()).score(tiny_model("llama", dtype), tokenizer, data).values
        for dtype in (torch.float32, torch.bfloat16)
    )
    # the links are steep where gains are small, as a random model's are
    assert (fine[:, 1:4] - coarse[:, 1:4]).abs().nanmean() < 0.05


def test_quantised_weights_of_an_unknown_kind(tokenizer):
    """Weights that are no floating point numbers: only activations and their gradients are needed."""
    plain, model = tiny_model("llama"), tiny_model("llama")
    for block in blocks(model):
        block.mlp.down_proj = Int8Linear(block.mlp.down_proj)
    data = requests(6)
    found, wanted = (EditForecast(identity()).score(one, tokenizer, data).values for one in (model, plain))
    assert found.isnan().equal(wanted.isnan())
    assert (found[:, 1:4] - wanted[:, 1:4]).abs().nanmean() < 0.02


def test_it_is_about_the_editor(tokenizer):
    model, data = tiny_model("llama"), requests(6)
    near, far = (EditForecast().for_editor(identity(clamp=clamp)) for clamp in (0.01, 4.0))
    one, other = (locator.score(model, tokenizer, data).values[:, 4] for locator in (near, far))
    assert (one.abs() < other.abs()).all(0)[:-1].all()  # the last block cannot change what is said after the subject
    own = EditForecast(identity(clamp=2.0))
    assert own.for_editor(identity()) is own
    assert own.settings(model)["editor"]["clamp"] == 2.0


@pytest.mark.parametrize(
    "editor",
    [
        MEMIT(window=2, second_moment="identity", moment_weight=2.0, **QUICK),
        CrispEdit(epochs=2, curvature_tokens=512, window=2),
    ],
    ids=["MEMIT", "CrispEdit"],
)
def test_a_window_ends_at_the_golden_layer(editor, tokenizer):
    model, data = tiny_model("llama"), requests(6)
    locator = EditForecast(editor)
    result = LocatorResult.from_scores(
        locator,
        model,
        *score_all(locator, model, tokenizer, data).compute(),
        model_name="m",
        data_name="d",
        requests=data,
    )
    assert result.is_forecast
    layers, source = LayerSpec.of(result, "this run").layers_for(editor, model)
    assert layers == editor.window_at(result.golden_layer) == result.golden_layers
    assert source == "golden window of this run"
