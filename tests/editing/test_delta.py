"""An edit tried, applied and undone is the same edit."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing.delta import WeightDelta, attached
from lga_lightning.exceptions import LayerError, ModelError
from lga_lightning.models.architecture import edit_site
from tests.helpers.models import VOCABULARY, tiny_model

EXACT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(params=["llama", "gpt2", "opt", "gpt_neox"])
def model(request: pytest.FixtureRequest):
    return tiny_model(request.param, torch.float64)


def delta_for(model, ranks: dict[int, int], seed: int = 0, dtype: torch.dtype = torch.float64) -> WeightDelta:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) * 0.3

    sites = {layer: edit_site(model, layer) for layer in ranks}
    return WeightDelta(
        {n: (random(s.out_features, ranks[n]), random(ranks[n], s.in_features)) for n, s in sites.items()}
    )


def ids(rows: int = 3) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, 7), generator=torch.Generator().manual_seed(1))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model, before: dict[str, torch.Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor.flatten().view(torch.uint8), before[name].flatten().view(torch.uint8)), name


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
        b, a = delta.factors.get(layer, (torch.zeros(24, 1).double(), torch.zeros(1, before[layer].shape[1]).double()))
        torch.testing.assert_close(edit_site(model, layer).weight, before[layer] + b @ a, rtol=0, atol=1e-15)


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
    assert both.ranks == {1: 1, 2: 3, 3: 1}
    assert (first.ranks, second.ranks) == ({1: 1, 2: 2}, {2: 1, 3: 1})
    with both.attached(model):
        joined = model(input_ids=ids()).logits
    with first.applied(model), second.applied(model):
        in_turn = model(input_ids=ids()).logits
    torch.testing.assert_close(joined, in_turn, **EXACT)


@pytest.mark.parametrize(("b", "a"), [((24, 2), (1, 40)), ((24,), (1, 40)), ((24, 1), (40,)), ((1, 24, 1), (1, 40))])
def test_factors_that_do_not_fit_each_other(b, a):
    with pytest.raises(ValueError, match=r"Block 2: expected B \[d_out, r\] and A \[r, d_in\], got"):
        WeightDelta({2: (torch.zeros(b), torch.zeros(a))})


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
    b, a = delta.factors[1]
    site = edit_site(model, 1)
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
    other = fits + WeightDelta({2: (torch.ones(shape[0], 1), torch.ones(1, shape[1]))})
    before = weights(llama)
    said = rf"The edit of block 2 is {shape[0]} x {shape[1]}, but model.layers.2.mlp.down_proj is 24 x 40: .*another"
    with pytest.raises(ValueError, match=said):
        other.merge_(llama) if way == "merge_" else getattr(other, way)(llama).__enter__()
    assert_same_bits(llama, before)  # not half an edit
    assert not any(module._forward_hooks for module in llama.modules())


def test_a_block_that_the_model_lacks(llama):
    delta = WeightDelta({9: (torch.ones(24, 1), torch.ones(1, 40))})
    for way in (delta.merge_, lambda model: delta.attached(model).__enter__()):
        with pytest.raises(LayerError, match="Layer 9 is out of range"):
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
