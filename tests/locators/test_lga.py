"""The attribution against plain per-request autograd."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from lga_lightning.exceptions import SettingError
from lga_lightning.locators import LGA, GradientLocator
from lga_lightning.models.architecture import SCOPES
from lga_lightning.models.encoding import IGNORE, encode_answers, target_ids, with_prompts
from tests.helpers.gradients import EXACT, reference, relative_error
from tests.helpers.models import requests, tiny_model

SIZES = (1, 3, 8)


def in_batches(locator, model, tokenizer, data, size):
    """Values and what is known, of batches of a size."""
    batches = [data[start : start + size] for start in range(0, len(data), size)]
    found = [locator.score(model, tokenizer, batch) for batch in batches]
    return torch.cat([evidence.values for evidence in found]), torch.cat([evidence.known for evidence in found])


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_autograd_in_float64(family, scope, tokenizer):
    model = tiny_model(family, torch.float64)
    data = requests(8)
    expected = torch.stack([reference(model, tokenizer, request, scope) for request in data])
    for size in SIZES:
        values, _ = in_batches(LGA(scope, statistic="dot"), model, tokenizer, data, size)
        assert relative_error(values, expected) < EXACT
        # every single score, also where it is small beside the other layers'
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12 * expected.abs().max().item())


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("scope", ["mlp", "value"])
def test_the_loss_over_the_whole_text_equals_autograd_in_float64(family, scope, tokenizer):
    model = tiny_model(family, torch.float64)
    data = requests(8)
    expected = torch.stack([reference(model, tokenizer, request, scope, whole=True) for request in data])
    for size in SIZES:
        values, _ = in_batches(LGA(scope, loss="text"), model, tokenizer, data, size)
        assert relative_error(values, expected) < EXACT
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12 * expected.abs().max().item())


def test_the_loss_over_the_whole_text_is_the_models_own(tokenizer):
    model = tiny_model("llama", torch.float64)
    asked = requests(3)
    batch = encode_answers(tokenizer, [r.prompt for r in asked], [r.target_new for r in asked])
    whole = with_prompts(batch)
    logits = model(batch.input_ids).logits.gather(1, whole.positions.unsqueeze(-1).expand(-1, -1, 320))
    for row, labels in enumerate(whole.labels):
        count = int((labels != IGNORE).sum())
        ids = batch.input_ids[row : row + 1, : count + 1]
        nll = torch.nn.functional.cross_entropy(logits[row, :count], labels[:count])
        torch.testing.assert_close(nll, model(ids, labels=ids).loss.double(), rtol=1e-6, atol=0)


def test_the_gradient_of_an_answer_that_the_model_is_sure_of_is_there_in_float16(tokenizer):
    model, request = tiny_model("llama"), replace(requests(1)[0], target_old="Paris")
    (token,) = target_ids(tokenizer, "Paris")
    state = model.model(torch.tensor([tokenizer(request.prompt)["input_ids"]])).last_hidden_state[0, -1]
    model.lm_head.weight[token] = 23 * state / state.square().sum()
    half, whole = (
        LGA("mlp").score(model.half().to(dtype), tokenizer, [request]) for dtype in (torch.float16, torch.float)
    )
    assert half.known.all()
    old = whole.values[0, LGA.columns.index("old_norm")]
    assert 0 < old.max() < 1e-5
    torch.testing.assert_close(half.values[0, LGA.columns.index("old_norm")], old, rtol=0.1, atol=0)
    torch.testing.assert_close(
        half.values[0, 0], whole.values[0, 0], rtol=0.1, atol=0.1 * whole.values[0, 0].abs().max().item()
    )


def test_both_losses_know_the_same_requests(tokenizer):
    model = tiny_model("llama")
    data = [replace(request, target_old="Paris", target_new="Rome") for request in requests(8)]
    (token,) = target_ids(tokenizer, "Paris")
    prompt = torch.tensor([tokenizer(data[0].prompt)["input_ids"]])
    with torch.no_grad():  # so that the model gives this answer to some of the prompts
        model.lm_head.weight[token] = 10 * model.model(prompt).last_hidden_state[0, -1]
    for size in SIZES:
        _, known = in_batches(LGA(), model, tokenizer, data, size)
        assert 0 < known.sum() < len(data)
        assert in_batches(LGA(loss="text"), model, tokenizer, data, size)[1].equal(known)


def test_sums_over_the_whole_text_are_positive(tokenizer):
    model = tiny_model("llama")
    values, _ = in_batches(LGA(loss="text"), model, tokenizer, requests(8), 8)
    assert (values[:, 0].sum(0) > 0).all()


def test_the_loss_is_a_setting():
    model = tiny_model("llama")
    assert LGA().settings(model) == {"scope": "mlp", "statistic": "dot", "loss": "answer"}
    for kind in (LGA, partial(GradientLocator, kappa=None, aggregate="sum", statistic="dot", neighbours=0)):
        assert kind("mlp", loss="text").settings(model) == {"scope": "mlp", "statistic": "dot", "loss": "text"}
    with pytest.raises(SettingError, match=r"`loss` must be one of \['answer', 'text'\], got 'prompt'"):
        LGA(loss="prompt")
