"""Hooks do what they say, and are gone when the block ends, whatever happened in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.hooks import (
    OutputGradients,
    added_to_output,
    captured_inputs,
    frozen,
    logits_at,
    replaced_output,
)
from lga_lightning.models.partial_passes import BlockInput, entered_at
from tests.helpers.models import VOCABULARY, tiny_model

EXACT = {"rtol": 0, "atol": 1e-9}


def hooks_in(model: nn.Module) -> int:
    kinds = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def random_ids(rows: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))


def sites(model, layers=(0, 2, 3)) -> list[nn.Module]:
    return [edit_site(model, layer).module for layer in layers]


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_restores_modes_and_gradients(llama, fails):
    llama.requires_grad_(True).train()
    llama.model.layers[1].eval()
    llama.model.embed_tokens.weight.requires_grad_(False)
    modes = [module.training for module in llama.modules()]
    wanted = [parameter.requires_grad for parameter in llama.parameters()]
    try:
        with frozen(llama):
            assert not any(module.training for module in llama.modules())
            assert not any(parameter.requires_grad for parameter in llama.parameters())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [module.training for module in llama.modules()] == modes
    assert [parameter.requires_grad for parameter in llama.parameters()] == wanted
    assert len(set(modes)) == len(set(wanted)) == 2


CONTEXTS = {
    "logits_at": lambda model: logits_at(model, torch.zeros(3, 1, dtype=torch.long)),
    "captured_inputs": lambda model: captured_inputs(sites(model), torch.zeros(3, dtype=torch.long)),
    "added_to_output": lambda model: added_to_output(sites(model)[0], lambda k: k[..., :24]),
    "OutputGradients": lambda model: OutputGradients(lambda *_: None).watch(enumerate(sites(model))),
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("where", ["nowhere", "in the block", "in the model"])
def test_no_hook_stays(llama, name, where):
    before = hooks_in(llama)
    try:
        with CONTEXTS[name](llama):
            assert hooks_in(llama) > before
            llama(input_ids=random_ids() if where != "in the model" else random_ids() + VOCABULARY)
            if where == "in the block":
                raise KeyError
    except (KeyError, IndexError):
        assert where != "nowhere"
    assert hooks_in(llama) == before


def test_no_hook_stays_when_a_module_refuses_one(llama):
    before = hooks_in(llama)
    modules = [*sites(llama), None]
    with pytest.raises(AttributeError), captured_inputs(modules, torch.zeros(3, dtype=torch.long)):
        pass
    with pytest.raises(AttributeError), OutputGradients(lambda *_: None).watch(enumerate(modules)):
        pass
    assert hooks_in(llama) == before


@pytest.mark.usefixtures("exact")
def test_logits_at(family):
    model = tiny_model(family, torch.float64)
    ids, positions = random_ids(), torch.tensor([[0, 4], [8, 8], [3, 1]])
    every = model(input_ids=ids).logits
    with logits_at(model, positions):
        some = model(input_ids=ids).logits
    torch.testing.assert_close(some, torch.stack([every[n, p] for n, p in enumerate(positions)]), **EXACT)
    torch.testing.assert_close(model(input_ids=ids).logits, every, rtol=0, atol=0)


def inputs_of(model, ids: torch.Tensor) -> list[torch.Tensor]:
    """The inputs [tokens, d_in] of the sites' modules in a pass."""
    seen = []
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2))) for m in sites(model)]
    model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.usefixtures("exact")
def test_captured_inputs(family):
    model = tiny_model(family, torch.float64)
    ids, positions = random_ids(), torch.tensor([0, 8, 3])
    with captured_inputs(sites(model), positions) as captured:
        model(input_ids=ids)
    assert [keys.shape for keys in captured] == [(3, edit_site(model, 0).in_features)] * 3
    for row, position in enumerate(positions):
        # a row of its own, cut off after the position: what is wanted is its last input
        alone = inputs_of(model, ids[row : row + 1, : position + 1])
        for keys, inputs in zip(captured, alone, strict=True):
            torch.testing.assert_close(keys[row], inputs[-1], **EXACT)


def test_added_to_output(family):
    model = tiny_model(family, torch.float64)
    module, ids = sites(model)[1], random_ids()
    plain = model(input_ids=ids).logits
    shapes = []

    def addition(keys):
        shapes.append(keys.shape)
        return keys[..., :24] * torch.arange(3.0).view(3, 1, 1)

    with added_to_output(module, addition, rows=3):
        changed = model(input_ids=ids).logits
    assert shapes == [(3, 9, edit_site(model, 0).in_features)]
    # row 0 got zeros
    torch.testing.assert_close(changed[0], plain[0])
    assert (changed[1:] - plain[1:]).abs().amax((1, 2)).min() > 1e-3


def test_a_list_stays_a_list():
    """GPT-1's blocks give lists."""
    model, ids = tiny_model("openai-gpt"), random_ids()
    whole, block_input = model(input_ids=ids).logits, BlockInput()
    with replaced_output(blocks(model)[1], lambda output: output):
        assert torch.equal(model(input_ids=ids).logits, whole)
    for _ in range(2):  # the second time without the blocks below
        with entered_at(blocks(model), 2, block_input):
            assert torch.equal(model(input_ids=ids).logits, whole)
    assert isinstance(block_input.form, list)


def test_added_to_output_keeps_the_modules_dtype():
    module = nn.Linear(4, 4).bfloat16()
    x = torch.randn(2, 3, 4).bfloat16()
    plain = module(x)
    with added_to_output(module, lambda k: torch.full_like(k, 1e-4, dtype=torch.float64)):
        changed = module(x)
    assert changed.dtype == torch.bfloat16
    assert torch.equal(changed, (plain.double() + torch.tensor(1e-4, dtype=torch.float64)).bfloat16())


@pytest.mark.usefixtures("exact")
def test_output_gradients(family):
    model = tiny_model(family, torch.float64)
    received = {}
    watcher = OutputGradients(lambda key, a, b: received.update({key: (a.reshape(-1, a.shape[-1]), b.reshape(-1, 24))}))
    names = [edit_site(model, layer).name for layer in (0, 2)]
    with watcher.watch([(name, model.get_submodule(name)) for name in names]):
        watcher.backward(model(input_ids=random_ids()).logits.logsumexp(-1).sum())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    model.requires_grad_(True)
    loss = model(input_ids=random_ids()).logits.logsumexp(-1).sum()
    for layer in (0, 2):
        site = edit_site(model, layer)
        (gradient,) = torch.autograd.grad(loss, site.module.weight, retain_graph=True)
        a, b = received[site.name]
        torch.testing.assert_close(b.T @ a, gradient.T if site.transposed else gradient, **EXACT)


def test_output_gradients_write_no_grad_on_a_trainable_model(llama):
    llama.requires_grad_(True)
    watcher = OutputGradients(lambda *_: None)
    with frozen(llama), watcher.watch(enumerate(sites(llama))):
        watcher.backward(llama(input_ids=random_ids()).logits.sum())
    assert all(p.grad is None and p.requires_grad for p in llama.parameters())


def test_who_receives_may_call_what_is_watched(llama):
    """Nothing of such calls is kept."""
    watcher = OutputGradients(lambda key, a, b: sites(llama)[key](a))
    with frozen(llama), watcher.watch(enumerate(sites(llama))):
        watcher.backward(llama(input_ids=random_ids()).logits.sum())
        assert len(watcher._roots) == 1


def test_output_gradients_run_again(llama):
    seen = []
    watcher = OutputGradients(lambda key, _, b: seen.append((key, b)))
    for _ in range(2):
        with watcher.watch(enumerate(sites(llama))):
            watcher.backward(llama(input_ids=random_ids()).logits.logsumexp(-1).sum())
    assert [key for key, _ in seen] == [2, 1, 0, 2, 1, 0]
    for (_, first), (_, second) in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
