"""Mixtures of experts: keys, forecasts and edits of the experts that tokens are routed to, against plain loops over experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lga_lightning.covariance import accumulator
from lga_lightning.covariance.accumulator import CovarianceAccumulator
from lga_lightning.editing import FTM, MEMIT, RROME, UltraEdit
from lga_lightning.exceptions import ModelError, SettingError
from lga_lightning.locators import LGA
from lga_lightning.locators.first_order import encode_rows, forecast_rows
from lga_lightning.models import structure as structures
from lga_lightning.models.architecture import blocks, edit_site, named_site, scored_sites
from lga_lightning.models.experts import ExpertMatrix
from lga_lightning.models.structure import RoutedExperts, register_structure
from tests.editing.helpers import assert_same_bits, ids, weights
from tests.helpers.families import ROUTED
from tests.helpers.models import requests, tiny_model
from tests.helpers.tokenizers import subject_last_token

SEARCH = {"steps": 4, "context_lengths": (3,), "contexts_each": 1}
QUICK = [
    RROME(second_moment="identity", **SEARCH),
    MEMIT(window=2, moment_weight=2.0, second_moment="identity", **SEARCH),
    FTM(steps=2),
    UltraEdit(warmup=2),
]


def by_hand(experts: torch.nn.Module, hidden: Tensor, routed: Tensor, weights: Tensor) -> dict[tuple[int, int], Tensor]:
    """w_e k_te by token and expert, one at a time."""
    found = {}
    for token in range(len(hidden)):
        for expert, weight in zip(routed[token].tolist(), weights[token], strict=True):
            up = experts.gate_up_proj[expert]
            out = hidden[token] @ (up if experts.is_transposed else up.T)
            out = out + experts.gate_up_proj_bias[expert] if experts.has_bias else out
            found[token, expert] = weight * experts._apply_gate(out)
    return found


def calls(model, ids: Tensor) -> dict[int, tuple[Tensor, ...]]:
    """What goes into the experts of each block, and what comes out, the latter with a gradient after a backward pass."""
    seen: dict[int, tuple[Tensor, ...]] = {}
    handles = []
    for layer in range(len(blocks(model))):

        def keep(module, args, kwargs, output, layer=layer):
            output = output if output.requires_grad else output.requires_grad_()
            output.retain_grad()
            seen[layer] = (*(*args, *kwargs.values())[:3], output)
            return output.clone()

        experts = edit_site(model, layer).module.experts
        handles.append(experts.register_forward_hook(keep, with_kwargs=True))
    seen[-1] = (model(ids).logits,)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", ROUTED)
@pytest.mark.usefixtures("exact")
def test_a_forecast_is_the_gradient_times_the_update_of_each_expert(family, tokenizer, monkeypatch):
    model, (request,) = tiny_model(family, torch.float64), requests(1)
    monkeypatch.setattr(RROME, "search_end", lambda self, model, values, gradients: -1e-7 * gradients.unsqueeze(1))
    rows = encode_rows(tokenizer, [request], [[]])
    found = forecast_rows(model, QUICK[0], rows, 1)
    prompt = tokenizer(request.prompt)["input_ids"]
    answer = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
    subject = subject_last_token(tokenizer, request.prompt, request.subject)
    experts = [edit_site(model, layer).module.experts for layer in range(len(blocks(model)))]
    for one in experts:
        one.down_proj.requires_grad_(True)
    seen = calls(model, torch.tensor([prompt + answer]))
    cross_entropy(seen[-1][0][0, len(prompt) - 1 : -1], torch.tensor(answer)).backward()
    for layer, one in enumerate(experts):
        keys = {e: key for (t, e), key in by_hand(one, *seen[layer][:3]).items() if t == subject}
        size = sum(key @ key for key in keys.values())
        slope, gain = seen[layer][3].grad.flatten(0, -2)[subject], 0.0
        for expert, key in keys.items():
            grad = one.down_proj.grad[expert]
            change = torch.outer(-1e-7 * slope, key / size)
            gain -= float(((grad.T if one.is_transposed else grad) * change).sum())
        assert float(found.gain[0, layer]) == pytest.approx(gain, rel=1e-6, abs=1e-18)


@pytest.mark.parametrize("family", ROUTED)
def test_keys_are_those_of_the_tokens_that_an_expert_sees(family):
    model = tiny_model(family, torch.float64)
    seen = calls(model, ids(2))
    for layer in range(len(blocks(model))):
        site = edit_site(model, layer)
        whole, experts = site.module.keys(*seen[layer][:3]), site.module.experts
        keys = whole.unflatten(1, (experts.num_experts, -1))
        expected = torch.zeros_like(keys)
        for (token, expert), key in by_hand(experts, *seen[layer][:3]).items():
            expected[token, expert] = key
        torch.testing.assert_close(keys, expected)
        for number, name in enumerate(site.parts):
            one = named_site(model, name)
            assert one.layer == layer
            torch.testing.assert_close(one.module.keys(*seen[layer][:3]), expected[:, number])
            torch.testing.assert_close(one.weight, site.weight.unflatten(1, (experts.num_experts, -1))[:, number])
        if not experts.has_bias:
            torch.testing.assert_close(site.values(whole), seen[layer][3].view(-1, 24))


@pytest.mark.parametrize("method", QUICK, ids=lambda method: method.name)
def test_methods_edit_the_experts_that_are_seen(method, tokenizer):
    """With the kernels that models run by default, in float32."""
    model, data = tiny_model("qwen3_moe", experts_implementation="grouped_mm"), requests(3)
    before, plain = weights(model), model(ids()).logits
    delta = method.compute(model, tokenizer, data, [0, 1])
    names = [name for layer in (0, 1) for name in edit_site(model, layer).parts]
    assert set(delta.updates) <= set(names)
    assert {site.layer for sites in delta.by_block(model).values() for site in sites} == {0, 1}
    with delta.attached(model):
        attached = model(ids()).logits
    with delta.applied(model):
        torch.testing.assert_close(model(ids()).logits, attached, rtol=1e-4, atol=1e-5)
    assert (attached - plain).abs().max() > 1e-5
    assert_same_bits(model, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    each = method.compute_each(model, tokenizer, data, [1])
    single = ids(3)
    from lga_lightning.editing.attaching import attached as attached_rows

    with attached_rows(model, each, torch.arange(3)):
        together = model(single).logits
    for row, one in enumerate(each):
        with one.applied(model):
            torch.testing.assert_close(model(single[row : row + 1]).logits[0], together[row], rtol=1e-4, atol=1e-5)


def test_the_shared_expert_or_the_routed_ones(tokenizer, monkeypatch):
    monkeypatch.setattr(structures, "_REGISTERED", {})
    model = tiny_model("qwen2_moe")
    assert edit_site(model, 1).name == "model.layers.1.mlp.shared_expert.down_proj"
    register_structure("qwen2_moe", RoutedExperts())
    site = edit_site(model, 1)
    assert site.parts[3] == "model.layers.1.mlp.experts.3.down_proj"
    assert isinstance(site.module, ExpertMatrix)
    assert LGA("mlp_out").score(model, tokenizer, requests(2)).values.isfinite().all()
    with pytest.raises(ModelError, match="Scope 'mlp' takes all matrices"):
        scored_sites(model, "mlp")


def test_writing_to_an_experts_weight_writes_to_the_model():
    for family in ("qwen3_moe", "gpt_oss"):
        model = tiny_model(family)
        site = named_site(model, edit_site(model, 1).parts[2])
        site.weight[3, 5] = 7.0
        fused = site.module.experts.down_proj[2]
        assert (fused[5, 3] if family == "gpt_oss" else fused[3, 5]) == 7.0


def test_experts_that_normalise_what_each_gives_are_refused(monkeypatch):
    model = tiny_model("mixtral")
    for block in blocks(model):
        monkeypatch.setattr(block.mlp.experts, "has_post_expert_norm", True)
    with pytest.raises(ModelError, match="normalises what each of its experts gives"):
        edit_site(model, 0)


def test_second_moments_of_too_many_experts_are_refused(monkeypatch):
    model = tiny_model("qwen3_moe")
    assert CovarianceAccumulator(model, [1]).sum_1.shape == (80, 80)
    monkeypatch.setattr(accumulator, "WIDEST_OF_EXPERTS", 79)
    with pytest.raises(SettingError, match=r"those of 4 experts side by side, 80 wide.*second_moment='identity'"):
        CovarianceAccumulator(model, [1])
