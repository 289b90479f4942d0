"""ROME and R-ROME against their definitions, and the batched search against a plain one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from lga_lightning.editing import PMET, RROME, target_value
from lga_lightning.editing.context_templates import sample_contexts
from lga_lightning.editing.target_value import TargetValueSettings, find_target_values
from lga_lightning.models.architecture import blocks, edit_site
from tests.helpers.edits import token_scores
from tests.helpers.models import requests, tiny_model
from tests.helpers.tokenizers import subject_last_token

CONTEXTS = ["", "The end of it. ", "You know that Rome. "]
SETTINGS = TargetValueSettings(steps=6, learning_rate=0.1, weight_decay=0.05, clamp=1.5)


def plain_search(model, tokenizer, request, contexts, intervention_modules, edited, settings):
    """One request at a time, whole passes, torch's Adam: delta and h0, both [P, d_out], and the keys [K, d_in]."""
    target = tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]
    rows = []
    for context in contexts:
        text = context + request.prompt
        ids = tokenizer(text)["input_ids"]
        # the subject within the prompt, not an earlier mention within the context
        at = subject_last_token(tokenizer, request.prompt, request.subject)
        at += len(ids) - len(tokenizer(request.prompt)["input_ids"])
        rows.append((ids, at))
    about = tokenizer(f"{request.subject} is a")["input_ids"]
    about_at = subject_last_token(tokenizer, f"{request.subject} is a", request.subject)
    seen = {}

    def run(ids, at, deltas):
        def hook(number):
            def add(module, args, output):
                first = output[0] if isinstance(output, tuple) else output
                flat = first.view(1, len(ids), -1)
                seen[number] = flat[0, at].detach()
                added = torch.zeros_like(flat)
                added[0, at] += deltas[number]
                changed = (flat + added).view_as(first)
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            return add

        def key(module, args):
            seen["key"] = args[0].reshape(1, len(ids), -1)[0, at].detach()

        handles = [one.register_forward_hook(hook(number)) for number, one in enumerate(intervention_modules)]
        handles.append(edited.register_forward_pre_hook(key))
        try:
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    zero = torch.zeros(len(intervention_modules), model.config.hidden_size, dtype=torch.float64)
    keys = []
    for ids, at in rows:
        run(ids, at, zero)
        keys.append(seen["key"])
        if len(keys) == 1:
            h0 = torch.stack([seen[number] for number in range(len(intervention_modules))])
    original = run(about, about_at, zero)[about_at].detach()
    delta = zero.clone().requires_grad_()
    adam = torch.optim.Adam([delta], lr=settings.learning_rate)
    each = settings.contexts_each_step or len(rows)
    for step in range(settings.steps):
        turn = [rows[(step * each + number) % len(rows)] for number in range(each)]
        nll = torch.stack(
            [-run(ids + target, at, delta)[torch.arange(len(target)) + len(ids) - 1, target].mean() for ids, at in turn]
        )
        edited_here = run(about, about_at, delta)[about_at]
        divergence = functional.kl_div(original, edited_here, log_target=True, reduction="sum")
        loss = nll.mean() + settings.kl_factor * divergence
        loss = loss + settings.weight_decay * (delta.norm(dim=1) / h0.norm(dim=1) ** 2).sum()
        if loss < settings.stop_loss or step == settings.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            delta *= (settings.clamp * h0.norm(dim=1) / delta.norm(dim=1)).clamp_max(1).unsqueeze(1)
    return delta.detach(), h0, torch.stack(keys)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("where", ["module", "block", "attention and module"])
@pytest.mark.parametrize("family_name", ["llama", "gpt2", "gptj", "opt", "gemma3_text"])
def test_batched_search_equals_a_plain_one(family_name, where, tokenizer):
    assert_search_is_plain(family_name, where, tokenizer, SETTINGS)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("each", [1, 2])
def test_contexts_take_turns(each, tokenizer):
    assert_search_is_plain("llama", "module", tokenizer, replace(SETTINGS, contexts_each_step=each))


def assert_search_is_plain(family_name, where, tokenizer, settings):
    model, data = tiny_model(family_name, torch.float64), requests(8)
    site = edit_site(model, 1)
    intervention_modules = {
        "module": [site.module],
        "block": [blocks(model)[1]],
        "attention and module": PMET(contexts_each=0).intervention_modules(model, 1),
    }[where]
    # some converge early: they leave the batch, the others go on
    losses = find_target_values(model, tokenizer, data, CONTEXTS, site, settings, intervention_modules).loss
    settings = replace(settings, stop_loss=losses.median().item())
    found = find_target_values(model, tokenizer, data, CONTEXTS, site, settings, intervention_modules, max_rows=10)
    for row, request in enumerate(data):
        delta, h0, keys = plain_search(model, tokenizer, request, CONTEXTS, intervention_modules, site.module, settings)
        torch.testing.assert_close(found.keys[row], keys, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.before[row], h0[-1], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.delta[row], delta[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_search_whose_loss_is_no_number_finds_none(broken, tokenizer):
    model, data = tiny_model("llama", torch.float64), [requests(8)[0], requests(8)[7]]
    site = edit_site(model, 1)
    alone = find_target_values(model, tokenizer, data[:1], CONTEXTS, site, SETTINGS, [site.module])
    others = {
        token for text in (data[0].prompt, data[0].target_new, *CONTEXTS) for token in tokenizer(text)["input_ids"]
    }
    its_own = min(set(tokenizer(data[1].prompt)["input_ids"]) - others)
    with torch.no_grad():
        model.get_input_embeddings().weight[its_own] = broken
    with pytest.warns(UserWarning, match=f"gives no numbers for {data[1].prompt!r}, so"):
        found = find_target_values(model, tokenizer, data, CONTEXTS, site, SETTINGS, [site.module])
    torch.testing.assert_close(found.delta[:1], alone.delta)
    assert found.delta[1].isnan().all()


def test_a_search_that_overflows_keeps_what_it_had_found(tokenizer, monkeypatch):
    model, data = tiny_model("llama", torch.float64), requests(2)
    site, calls = edit_site(model, 1), []
    ((going, lost),) = target_value.search_batches(model, tokenizer, data, len(CONTEXTS))
    shorter = find_target_values(model, tokenizer, data, CONTEXTS, site, replace(SETTINGS, steps=3), [site.module])
    nll = target_value._nll_with

    def overflowing(*given):
        calls.append(given)
        found = nll(*given)
        return torch.cat([found[:3], found[3:] * (torch.inf if len(calls) == 4 else 1)])  # three contexts each

    monkeypatch.setattr(target_value, "_nll_with", overflowing)
    found = find_target_values(model, tokenizer, data, CONTEXTS, site, SETTINGS, [site.module])
    torch.testing.assert_close(found.delta[lost], shorter.delta[lost])
    assert found.loss.isfinite().all()
    assert not torch.allclose(found.delta[going], shorter.delta[going])


def test_nothing_touches_a_weight(family, tokenizer):
    model, data = tiny_model(family), requests(4)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    deltas = RROME(steps=3, contexts_each=1, second_moment="identity").compute_each(model, tokenizer, data, 1)
    token_scores(model, tokenizer, data, deltas)
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt"])
def test_scores_by_hook_are_those_of_edited_weights(family_name, tokenizer):
    model, data = tiny_model(family_name), requests(8)
    deltas = RROME(steps=5, contexts_each=1, context_lengths=(3,), second_moment="identity").compute_each(
        model, tokenizer, data, 1
    )
    by_hook = token_scores(model, tokenizer, data, deltas, max_rows=7)
    assert by_hook.keys() == {"rewrite", "rephrase", "portability.reasoning", "locality.neighborhood"}

    def predictions(prompt, answer):
        ids = tokenizer(prompt)["input_ids"]
        target = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            said = model(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1].argmax(-1)
        return said, torch.tensor(target)

    for row, (request, delta) in enumerate(zip(data, deltas, strict=True)):
        unedited = [predictions(p.prompt, p.answers[0])[0] for p in request.locality["neighborhood"]]
        with delta.applied(model):
            groups = {
                "rewrite": [(request.prompt, request.target_new)],
                "rephrase": [(prompt, request.target_new) for prompt in request.rephrases],
                "portability.reasoning": [(p.prompt, p.answers[0]) for p in request.portability.get("reasoning", ())],
            }
            for name, group in groups.items():
                shares = [(said == target).double().mean() for said, target in (predictions(*q) for q in group)]
                expected = torch.stack(shares).mean() if shares else torch.tensor(torch.nan).double()
                torch.testing.assert_close(by_hook[name][row, 1], expected, equal_nan=True)
            said = [predictions(p.prompt, p.answers[0])[0] for p in request.locality["neighborhood"]]
        same = [(a == b).double().mean() for a, b in zip(unedited, said, strict=True)]
        torch.testing.assert_close(by_hook["locality.neighborhood"][row, 1], torch.stack(same).mean())


def test_contexts_are_the_same_every_time_and_leave_the_random_state_alone(tokenizer):
    model = tiny_model("gpt2")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = sample_contexts(model, tokenizer, (5, 10), 10)
    assert torch.equal(torch.rand(3), expected)
    assert first == sample_contexts(model, tokenizer, (5, 10), 10)
    assert len(first) == 21
    assert first[0] == ""
    assert all(context.endswith(". ") for context in first[1:])


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"steps": 1},
        {"clamp": -1.0},
        {"contexts_each_step": 0},
        {"contexts_each": -1},
        {"context_lengths": (0,)},
    ],
)
def test_bad_settings(setting):
    with pytest.raises(ValueError, match="at least"):
        RROME(**setting)
