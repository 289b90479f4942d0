"""Causal tracing against plain forward passes, one at a time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lga_lightning.locators import CausalTracing, base, causal_tracing
from lga_lightning.locators.causal_tracing import GROUPS, KINDS, token_groups
from lga_lightning.locators.tracer import EncodedFact, Tracer, encode_fact
from lga_lightning.locators.whole_tracer import WholeTracer
from lga_lightning.models.architecture import blocks
from tests.helpers.models import requests, tiny_model

PARTS = {  # by name alone, independent of lga_lightning.models.architecture
    "llama": ("mlp.down_proj", "self_attn"),
    "gemma3_text": ("mlp.down_proj", "self_attn"),
    "gpt2": ("mlp.c_proj", "attn"),
    "gptj": ("mlp.fc_out", "attn"),
    "gpt_neox": ("mlp.dense_4h_to_h", "attention"),
    "opt": ("fc2", "self_attn"),
    "bloom": ("mlp.dense_4h_to_h", "self_attention"),
    "gpt_bigcode": ("mlp.c_proj", "attn"),
}


def edit_output(module, change):
    """Let a function change, in place, a copy of a module's output [1, T, d]."""

    def hook(module, args, output):
        first = (output[0] if isinstance(output, tuple) else output).clone()
        change(first.view(-1, first.shape[-1]))
        return (first, *output[1:]) if isinstance(output, tuple) else first

    return module.register_forward_hook(hook)


def forward(model: PreTrainedModel, fact: EncodedFact, hooks: list) -> float:
    """The answer's probability in one pass of one row, with hooks."""
    with ExitStack() as stack:
        for module, change in hooks:
            stack.callback(edit_output(module, change).remove)
        logits = model(input_ids=fact.input_ids, use_cache=False).logits[0]
    steps = logits.log_softmax(-1)[-fact.answer.shape[1] :]
    return steps.gather(1, fact.answer.T).sum().exp().item()


def slow_effect(model, fact, noise, kind, token, layer, window, parts) -> float:
    """Indirect effect of one restoration: a clean pass, and for each copy one corrupted and one restored pass."""
    modules = {"block": blocks(model)}
    for name, path in zip(("mlp", "attention"), parts, strict=True):
        modules[name] = [block.get_submodule(path) for block in blocks(model)]
    span = [layer] if kind == "block" else range(layer - window // 2, layer - window // 2 + window)
    restored = [modules[kind][k] for k in span if 0 <= k < len(blocks(model))]
    clean: list[Tensor] = []
    forward(model, fact, [(module, lambda out: clean.append(out[token].clone())) for module in restored])
    first, last = fact.subject
    effects = []
    for copy in noise:

        def corrupt(out, copy=copy):
            out[first : last + 1] += copy

        hooks = [(model.get_input_embeddings(), corrupt)]
        baseline = forward(model, fact, hooks)
        for module, value in zip(restored, clean, strict=True):

            def put(out, value=value):
                out[token] = value

            hooks.append((module, put))
        effects.append(forward(model, fact, hooks) - baseline)
    return sum(effects) / len(effects)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("kind_of_tracer", "family"),
    [(WholeTracer if family == "bloom" else Tracer, family) for family in sorted(PARTS)] + [(WholeTracer, "llama")],
)
def test_equals_one_pass_at_a_time(kind_of_tracer, family, tokenizer):
    model = tiny_model(family, torch.float64, initializer_range=0.2)
    for request in (requests()[2], requests()[1]):  # in the middle of the prompt, and at its beginning
        fact = encode_fact(tokenizer, request, torch.device("cpu"))
        first, last = fact.subject
        noise = torch.randn(2, last - first + 1, 24, generator=torch.Generator().manual_seed(1)).double() * 0.5
        with torch.no_grad():
            tracer = kind_of_tracer(model, fact, noise)
            for token in {first, last, fact.last}:
                found = tracer.effects(token, KINDS, window=2, max_rows=9)
                for kind in KINDS:
                    for layer in range(len(blocks(model))):
                        args = (model, fact, noise, kind, token, layer, 2, PARTS[family])
                        assert found[kind][layer].item() == pytest.approx(slow_effect(*args), rel=1e-6, abs=1e-15)
        assert found["block"].abs().max() > 0
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_batches_heat_map_and_what_is_skipped(tokenizer, monkeypatch):
    def knows(model, tokenizer, asked):
        return torch.tensor([request.id != "row 3" for request in asked])

    for place in (base, causal_tracing):
        monkeypatch.setattr(place, "knows_old_answer", knows)
    model, data = tiny_model("gpt2"), requests(4)
    locator = CausalTracing(heat_map=True, window=2, copies=2)
    locator.prepare(model, tokenizer, data)
    whole = locator.score(model, tokenizer, data)
    assert whole.known.any()
    assert not whole.known[-1]
    assert whole.values[-1, 0].abs().max() == 0
    singly = torch.cat([locator.score(model, tokenizer, [request]).values for request in data])
    torch.testing.assert_close(singly, whole.values, rtol=0, atol=0, equal_nan=True)
    short = CausalTracing(window=2, copies=2)
    short.prepare(model, tokenizer, data)
    values = short.score(model, tokenizer, data).values
    torch.testing.assert_close(values[:, 0], whole.values[:, 0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(whole.values[:3, locator.columns.index("mlp.last_subject")], whole.values[:3, 0])


@pytest.mark.parametrize(
    "family", ["bloom", "gemma4_text", "lfm2", "lfm3", "qwen3_5_text", "qwen3_next", "olmo_hybrid", "bamba"]
)
def test_models_whose_blocks_do_not_go_on_by_themselves(family, tokenizer, monkeypatch):
    monkeypatch.setattr(causal_tracing, "knows_old_answer", lambda model, tokenizer, asked: torch.ones(len(asked)) == 1)
    model, locator = tiny_model(family), CausalTracing(window=2, copies=2, noise=0.5)
    found = locator.score(model, tokenizer, requests(3)[2:]).values
    monkeypatch.setattr(causal_tracing, "Tracer", WholeTracer)
    assert found.abs().max() > 0
    torch.testing.assert_close(locator.score(model, tokenizer, requests(3)[2:]).values, found, rtol=1e-3, atol=0)


def test_token_groups(tokenizer):
    fact = EncodedFact(torch.zeros(1, 9).long(), torch.zeros(1, 2).long(), (1, 3), 7)
    assert list(token_groups(fact)) == list(GROUPS)
    assert list(token_groups(fact).values()) == [[1], [2], [3], [4], [5, 6], [7]]
    at_the_end = replace(fact, subject=(7, 7))
    assert list(token_groups(at_the_end).values()) == [[7], [], [7], [], [], [7]]
    request = requests()[2]
    fact = encode_fact(tokenizer, request, torch.device("cpu"))
    first, last = fact.subject
    assert request.subject in tokenizer.decode(fact.input_ids[0, first : last + 1])
    assert tokenizer.decode(fact.input_ids[0, : fact.last + 1]).endswith(request.prompt)


@pytest.mark.parametrize("setting", [{"window": 0}, {"copies": 0}, {"noise": 0.0}])
def test_bad_settings(setting):
    with pytest.raises(ValueError, match="must be"):
        CausalTracing(**setting)
