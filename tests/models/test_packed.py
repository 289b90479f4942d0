"""Weights in 8 and 4 bits: read as plain numbers, told apart, and passed by gradients."""

from __future__ import annotations

from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

from lga_lightning.models.architecture import edit_site
from lga_lightning.models.hooks import frozen
from lga_lightning.models.packed import is_packed, packed_modules, unpacked
from lga_lightning.models.weights import may_be_the_same, weights_hash, weights_mark
from tests.editing.helpers import ids
from tests.helpers.models import tiny_model
from tests.helpers.quantised import PACKAGES, SIZES, Int8Linear, quantised, twin

KINDS = pytest.mark.parametrize("kind", PACKAGES)


@KINDS
def test_a_weight_is_read_as_what_it_stands_for(kind, quantised_folder):
    model, original = quantised(quantised_folder, kind), tiny_model("llama", **SIZES)
    assert len(packed_modules(model)) == 4 * 7
    site, before = edit_site(model, 1), edit_site(original, 1).weight
    assert (site.in_features, site.out_features, site.packing is None) == (64, 32, False)
    torch.testing.assert_close(site.weight, site.module(torch.eye(64)).T, rtol=1e-4, atol=1e-5)
    assert (site.weight - before).norm() < {"int8": 0.01}.get(kind, 0.12) * before.norm()
    keys = torch.randn(5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(site.values(keys), keys @ site.weight.double().T)
    assert not any(is_packed(parameter) for parameter in original.parameters())
    assert edit_site(original, 1).weight is original.model.layers[1].mlp.down_proj.weight


def test_one_of_an_unknown_kind_is_asked_for_it():
    linear = nn.Linear(64, 32).requires_grad_(False)
    module = Int8Linear(linear)
    module.register_forward_hook(lambda *args: pytest.fail("nobody may see this"))
    assert is_packed(module.weight)
    torch.testing.assert_close(unpacked(module), module.weight * module.scale, rtol=1e-4, atol=1e-5)
    assert (unpacked(module) - linear.weight).abs().max() < 0.01 * linear.weight.abs().max()


@KINDS
def test_gradients(kind, quantised_folder):
    model = quantised(quantised_folder, kind)
    plain = twin(model)
    kept: WeakSet[Kept] = WeakSet()

    def gradient(of) -> Tensor:
        inputs = of.get_input_embeddings()(ids()).detach().requires_grad_()
        with frozen(of), torch.autograd.graph.saved_tensors_hooks(lambda x: Kept(x, kept), lambda box: box.tensor):
            loss = of(inputs_embeds=inputs).logits.square().sum()
            shapes = {tuple(box.tensor.shape) for box in kept}
            (found,) = torch.autograd.grad(loss, inputs)
        assert ({(32, 64), (64, 32)} & shapes != set()) == (of is plain), shapes  # of a packed weight nothing is kept
        return found

    torch.testing.assert_close(gradient(model), gradient(plain), rtol=1e-4, atol=1e-4)
    assert not any(module._forward_hooks for module in model.modules())


class Kept:
    """A tensor that a graph keeps."""

    def __init__(self, tensor: Tensor, among: WeakSet[Kept]) -> None:
        self.tensor = tensor
        among.add(self)


@KINDS
def test_the_hash_is_of_what_is_stored(kind, quantised_folder):
    model = quantised(quantised_folder, kind)
    plain, mark = tiny_model("llama", **SIZES), weights_mark(model)
    assert mark == weights_mark(quantised(quantised_folder, kind))
    assert mark.split()[0] in ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Params4bit")
    assert may_be_the_same(mark, weights_mark(plain))
    before, weight = weights_hash(model), edit_site(model, 1).module.weight
    (scale,) = (
        part for part in (getattr(weight, "scale", None), getattr(weight, "quant_state", None)) if part is not None
    )
    scale = getattr(scale, "absmax", scale)
    scale.mul_(2)
    assert weights_hash(model) != before
    scale.div_(2)
    assert weights_hash(model) == before
