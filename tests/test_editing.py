"""ROME and R-ROME against their definitions, and the batched search against a plain one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from lga_lightning.editing import ROME, RROME
from lga_lightning.editing.contexts import sample_contexts
from lga_lightning.editing.target_value import TargetValueSettings, find_target_values
from lga_lightning.errors import DataError
from lga_lightning.evaluation import evaluate_each, question_columns
from lga_lightning.families import edit_site
from lga_lightning.requests import subject_last_token
from tests.helpers import requests, tiny_model

CONTEXTS = ["", "The end of it. ", "You know that Rome. "]
SETTINGS = TargetValueSettings(steps=6, learning_rate=0.1, weight_decay=0.05, clamp=1.5)


def plain_search(model, tokenizer, request, contexts, layer, settings):
    """One request at a time, whole passes, torch's Adam: delta [d_out], h0 [d_out] and the keys [K, d_in]."""
    site = edit_site(model, layer)
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

    def run(ids, at, delta):
        def hook(module, args, output):
            flat = output.view(1, len(ids), -1)
            seen["key"], seen["value"] = args[0].reshape(1, len(ids), -1)[0, at].detach(), flat[0, at].detach()
            added = torch.zeros_like(flat)
            added[0, at] += delta
            return (flat + added).view_as(output)

        handle = site.module.register_forward_hook(hook)
        try:
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)
        finally:
            handle.remove()

    zero = torch.zeros(site.out_features, dtype=torch.float64)
    keys = []
    for ids, at in rows:
        run(ids, at, zero)
        keys.append(seen["key"])
        if len(keys) == 1:
            h0 = seen["value"]
    original = run(about, about_at, zero)[about_at].detach()
    delta = zero.clone().requires_grad_()
    adam = torch.optim.Adam([delta], lr=settings.learning_rate)
    for step in range(settings.steps):
        nll = torch.stack(
            [-run(ids + target, at, delta)[torch.arange(len(target)) + len(ids) - 1, target].mean() for ids, at in rows]
        )
        edited = run(about, about_at, delta)[about_at]
        divergence = functional.kl_div(original, edited, log_target=True, reduction="sum")
        loss = nll.mean() + settings.kl_factor * divergence
        loss = loss + settings.weight_decay * delta.norm() / h0.norm() ** 2
        if loss < settings.stop_loss or step == settings.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            delta *= min(1.0, (settings.clamp * h0.norm() / delta.norm()).item())
    return delta.detach(), h0, torch.stack(keys)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt", "gemma3_text"])
def test_batched_search_equals_a_plain_one(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(8)
    site = edit_site(model, 1)
    # some converge early: they leave the batch, the others go on
    losses = find_target_values(model, tokenizer, data, CONTEXTS, site, SETTINGS).loss
    settings = TargetValueSettings(**{**vars(SETTINGS), "stop_loss": losses.median().item()})
    found = find_target_values(model, tokenizer, data, CONTEXTS, site, settings)
    for row, request in enumerate(data):
        delta, h0, keys = plain_search(model, tokenizer, request, CONTEXTS, 1, settings)
        torch.testing.assert_close(found.keys[row], keys, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.before[row], h0, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.delta[row], delta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [ROME, RROME])
@pytest.mark.parametrize("moment", [False, True])
def test_closed_form(method, moment, family, tokenizer, tmp_path):
    model, data = tiny_model(family, torch.float64), requests(4)
    site = edit_site(model, 2)
    path = None
    c = torch.eye(site.in_features).double()
    if moment:
        samples = torch.randn(100, site.in_features).double()
        c = samples.T @ samples / 100
        path = tmp_path / "moments.safetensors"
        save_file({"2": c}, path)
    editor = method(steps=4, context_lengths=(3,), contexts_each=2, second_moment=path and str(path))
    deltas = editor.compute_each(model, tokenizer, data, 2)
    contexts = sample_contexts(model, tokenizer, (3,), 2)
    found = find_target_values(model, tokenizer, data, contexts, site, editor.search)
    for row, delta in enumerate(deltas):
        b, a = delta.factors[2]
        mean, bare = found.keys[row].mean(0), found.keys[row, 0]
        written = bare if method is ROME else mean
        bias = site.module.bias if site.module.bias is not None else 0
        u = torch.linalg.inv(c) @ mean
        u = u / u.norm()
        value = found.before[row] + found.delta[row]
        change = torch.outer((value - site.weight @ written - bias) / (written @ u), u)
        torch.testing.assert_close(b @ a, change, rtol=1e-8, atol=1e-10)
        # W' k* = v*
        edited = (site.weight + b @ a) @ written + bias
        assert ((edited - value).norm() / value.norm()) < 1e-5


def test_nothing_touches_a_weight(family, tokenizer):
    model, data = tiny_model(family), requests(4)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    deltas = RROME(steps=3, contexts_each=1).compute_each(model, tokenizer, data, 1)
    evaluate_each(model, tokenizer, data, deltas, question_columns(data))
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt"])
def test_scores_by_hook_are_those_of_edited_weights(family_name, tokenizer):
    model, data = tiny_model(family_name), requests(8)
    columns = question_columns(data)
    assert columns == ["rewrite", "rephrase", "portability.reasoning", "locality.neighborhood"]
    deltas = RROME(steps=5, contexts_each=1, context_lengths=(3,)).compute_each(model, tokenizer, data, 1)
    by_hook = evaluate_each(model, tokenizer, data, deltas, columns, max_rows=7)

    def predictions(prompt, answer):
        ids = tokenizer(prompt)["input_ids"]
        target = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            said = model(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1].argmax(-1)
        return said, torch.tensor(target)

    for row, (request, delta) in enumerate(zip(data, deltas, strict=True)):
        unedited = [predictions(p.prompt, p.answers[0])[0] for p in request.locality["neighborhood"]]
        with delta.applied(model):
            groups = [
                [(request.prompt, request.target_new)],
                [(prompt, request.target_new) for prompt in request.rephrases],
                [(p.prompt, p.answers[0]) for p in request.portability.get("reasoning", ())],
            ]
            for column, group in enumerate(groups):
                shares = [(said == target).double().mean() for said, target in (predictions(*q) for q in group)]
                expected = torch.stack(shares).mean() if shares else torch.tensor(torch.nan).double()
                torch.testing.assert_close(by_hook[row, 1, column], expected, equal_nan=True)
            said = [predictions(p.prompt, p.answers[0])[0] for p in request.locality["neighborhood"]]
        same = [(a == b).double().mean() for a, b in zip(unedited, said, strict=True)]
        torch.testing.assert_close(by_hook[row, 1, 3], torch.stack(same).mean())


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
    ("content", "message"), [(None, "cannot be read"), ({"0": 4}, "no second moment"), ({"2": 4}, "another model")]
)
def test_bad_second_moment(content, message, tokenizer, tmp_path):
    path = tmp_path / "moments.safetensors"
    if content:
        save_file({name: torch.eye(size) for name, size in content.items()}, path)
    with pytest.raises(DataError, match=message):
        RROME(steps=2, contexts_each=0, second_moment=str(path)).compute_each(
            tiny_model("llama"), tokenizer, requests(1), 2
        )


@pytest.mark.parametrize("setting", [{"steps": 0}, {"clamp": -1.0}, {"contexts_each": -1}, {"context_lengths": (0,)}])
def test_bad_settings(setting):
    with pytest.raises(ValueError, match="at least"):
        RROME(**setting)
