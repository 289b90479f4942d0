"""An edit tried, applied and undone is the same edit."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing.attaching import attached
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate
from lga_lightning.exceptions import ModelError
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import assert_same_bits, delta_for, ids, name_at, weights
from tests.helpers.models import VOCABULARY, tiny_model

EXACT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(params=["llama", "gpt2", "opt", "gpt_neox"])
def model(request: pytest.FixtureRequest):
    return tiny_model(request.param, torch.float64)


@pytest.mark.usefixtures("exact")
def test_attached_is_merged(model):
    delta, before = delta_for(model, {1: 1, 3: 2}), weights(model)
    plain = model(input_ids=ids()).logits
    with delta.attached(model):
        tried = model(input_ids=ids()).logits
    assert_same_bits(model, before)
    with delta.applied(model):
        applied = model(input_ids=ids()).logits
    torch.testing.assert_close(tried, applied, **EXACT)
    assert (tried - plain).abs().max() > 1e-3
    assert torch.equal(model(input_ids=ids()).logits, plain)


def test_merged_weights_are_w_plus_ba(model):
    delta = delta_for(model, {0: 3, 2: 1})
    before = {layer: edit_site(model, layer).weight.clone() for layer in range(4)}
    delta.merge_(model)
    for layer in range(4):
        update = delta.updates.get(name_at(model, layer))
        change = update.b @ update.a if update else torch.zeros(24, before[layer].shape[1]).double()
        torch.testing.assert_close(edit_site(model, layer).weight, before[layer] + change, rtol=0, atol=1e-15)


@pytest.mark.usefixtures("exact")
def test_every_row_has_an_edit_of_its_own(model):
    deltas = [delta_for(model, {1: 1}), delta_for(model, {1: 3, 2: 1}, seed=1), delta_for(model, {3: 2}, seed=2)]
    rows = torch.tensor([2, 0, 1, 1, 2])
    with attached(model, deltas, rows):
        together = model(input_ids=ids(5)).logits
    for row, which in enumerate(rows):
        with deltas[which].applied(model):
            alone = model(input_ids=ids(5)[row : row + 1]).logits[0]
        torch.testing.assert_close(together[row], alone, **EXACT)


@pytest.mark.usefixtures("exact")
def test_plus_joins(model):
    first, second = delta_for(model, {1: 1, 2: 2}), delta_for(model, {2: 1, 3: 1}, seed=1)
    both = first + second
    one, two, three = (name_at(model, layer) for layer in (1, 2, 3))
    assert both.ranks == {one: 1, two: 3, three: 1}
    assert (first.ranks, second.ranks) == ({one: 1, two: 2}, {two: 1, three: 1})
    with both.attached(model):
        joined = model(input_ids=ids()).logits
    with first.applied(model), second.applied(model):
        in_turn = model(input_ids=ids()).logits
    torch.testing.assert_close(joined, in_turn, **EXACT)


@pytest.mark.parametrize(("b", "a"), [((24, 2), (1, 40)), ((24,), (1, 40)), ((24, 1), (40,)), ((1, 24, 1), (1, 40))])
def test_factors_that_do_not_fit_each_other(b, a):
    with pytest.raises(ValueError, match=r"Expected `b` \[d_out, r\] and `a` \[r, d_in\], got"):
        LowRankUpdate(torch.zeros(b), torch.zeros(a))


@pytest.mark.parametrize("shape", [(24,), (1, 24, 40)])
def test_a_dense_update_is_a_matrix(shape):
    with pytest.raises(ValueError, match=r"Expected `change` \[d_out, d_in\], got"):
        DenseUpdate(torch.zeros(shape))


@pytest.mark.parametrize("updates", [{2: DenseUpdate(torch.ones(2, 2))}, {"lm_head": torch.ones(2, 2)}])
def test_updates_are_updates_by_name(updates):
    with pytest.raises(TypeError, match=r"Expected `updates` to have a LowRankUpdate or .*edit_site"):
        WeightDelta(updates)


@pytest.mark.parametrize("fails", [False, True])
def test_applied_restores_bit_for_bit(model, fails):
    before = weights(model)
    try:
        with delta_for(model, {0: 2, 1: 1}).applied(model):
            assert not torch.equal(edit_site(model, 0).weight, before[edit_site(model, 0).name + ".weight"])
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert_same_bits(model, before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
def test_merge_and_restore_in_other_dtypes(family, dtype, factors):
    model = tiny_model(family, dtype)
    delta, before = delta_for(model, {1: 2}, dtype=factors), weights(model)
    site = edit_site(model, 1)
    b, a = delta.updates[site.name].factors
    exact = site.weight.double() + b.double() @ a.double()
    once_rounded = (site.weight.float() + b.float() @ a.float()).to(dtype)
    originals = delta.merge_(model)
    assert site.weight.dtype == dtype
    if factors == torch.float32:
        assert torch.equal(site.weight, once_rounded)
    step = max(torch.finfo(dtype).eps, torch.finfo(factors).eps)
    torch.testing.assert_close(site.weight.double(), exact, rtol=2 * step, atol=2 * step)
    originals.restore_()
    assert_same_bits(model, before)


def test_edits_one_after_the_other_are_undone_in_reverse(model):
    before = weights(model)
    undo = [delta_for(model, {1: 1}, seed=seed).merge_(model) for seed in range(3)]
    for originals in reversed(undo):
        originals.restore_()
    assert_same_bits(model, before)


@pytest.mark.parametrize("way", ["merge_", "applied", "attached"])
@pytest.mark.parametrize("shape", [(24, 30), (20, 40)])
def test_an_edit_of_another_model(llama, way, shape):
    fits = delta_for(llama, {0: 1}, dtype=torch.float32)
    wrong = LowRankUpdate(torch.ones(shape[0], 1), torch.ones(1, shape[1]))
    other = fits + WeightDelta({name_at(llama, 2): wrong})
    before = weights(llama)
    said = rf"The edit of model.layers.2.mlp.down_proj is {shape[0]} x {shape[1]}, but the module is 24 x 40: .*another"
    with pytest.raises(ValueError, match=said):
        other.merge_(llama) if way == "merge_" else getattr(other, way)(llama).__enter__()
    assert_same_bits(llama, before)  # not half an edit
    assert not any(module._forward_hooks for module in llama.modules())


@pytest.mark.parametrize(
    ("name", "found"), [("model.layers.9.mlp.down_proj", "no such module"), ("model.norm", "a LlamaRMSNorm")]
)
def test_a_module_that_the_model_lacks(name, found, llama):
    delta = WeightDelta({name: LowRankUpdate(torch.ones(24, 1), torch.ones(1, 40))})
    for way in (delta.merge_, delta.by_block, lambda model: delta.attached(model).__enter__()):
        with pytest.raises(ModelError, match=rf"linear module '{name}' in LlamaForCausalLM .*found {found}"):
            way(llama)


def test_a_quantised_weight(llama):
    delta = delta_for(llama, {1: 1}, dtype=torch.float32)
    module = edit_site(llama, 1).module
    module.weight = torch.nn.Parameter(torch.zeros(24, 40, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=r"down_proj is quantised \(torch.int8\).*`attached`"):
        delta.merge_(llama)


def test_attached_leaves_no_hook(model):
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    with delta_for(model, {0: 1, 1: 1}).attached(model):
        assert hooks() == before + 2
        with pytest.raises(IndexError):
            model(input_ids=ids() + VOCABULARY)
    assert hooks() == before


def test_a_merge_that_fails_at_some_layer_changes_none(llama, monkeypatch):
    delta = delta_for(llama, {0: 1, 1: 1, 2: 1}, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    matrix, names = WeightDelta.matrix, []

    def fails_at_the_third(self: WeightDelta, name: str) -> torch.Tensor:
        names.append(name)
        if len(names) == 3:
            raise MemoryError
        return matrix(self, name)

    monkeypatch.setattr(WeightDelta, "matrix", fails_at_the_third)
    with pytest.raises(MemoryError):
        delta.merge_(llama)
    assert all(torch.equal(before[name], tensor) for name, tensor in llama.state_dict().items())
