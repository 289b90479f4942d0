"""Edits of models in 8 and 4 bits are those of the plain model that computes the same, and go on top as adapters."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from lga_lightning.editing import FTM, MEMIT, RROME, EditMethod, Guarded, NormGuard, WeightDelta
from lga_lightning.editing.in_place import check_mergeable
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import DataError, ModelError
from lga_lightning.functional import find_golden_layer
from lga_lightning.locators import LGA
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.loading import load_model
from lga_lightning.models.weights import weights_hash
from tests.editing.helpers import ids
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model
from tests.helpers.quantised import PACKAGES, SIZES, quantised, saved_model, twin

KINDS = pytest.mark.parametrize("kind", PACKAGES)
ROME = RROME(**FAST_METHOD)


@pytest.mark.parametrize(
    ("kind", "method", "layers"),
    [
        ("int8", ROME, [1]),
        ("int8", FTM(steps=3), [1]),
        ("int8", Guarded(MEMIT(**FAST_METHOD), [NormGuard(0.2)]), [1, 2]),
        ("int4", ROME, [0, 1]),
        ("int4", FTM(steps=3), [1]),
        ("nf4", ROME, [1]),
    ],
    ids=[
        "int8: R-ROME",
        "int8: FT-M",
        "int8: MEMIT with a guard",
        "int4: R-ROME in a window",
        "int4: FT-M",
        "nf4: R-ROME",
    ],
)
def test_edits_are_those_of_the_plain_twin(kind, method: EditMethod, layers, quantised_folder, tokenizer):
    model, data = quantised(quantised_folder, kind), requests(4)
    before, deltas, norms = weights_hash(model), [], []
    for one in (model, twin(model)):
        session = EditSession(method, one, tokenizer, layers)
        for start in (0, 2):  # the second with the first in place
            session.edit(data[start : start + 2])
        deltas.append(session.delta)
        norms.append(session.relative_norms())
    found, wanted = deltas
    assert list(found.updates) == list(wanted.updates)
    for name in wanted.updates:
        assert wanted.matrix(name).norm() > 1e-3
        torch.testing.assert_close(found.matrix(name), wanted.matrix(name), rtol=1e-3, atol=1e-4)
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert weights_hash(model) == before
    assert not any(module._forward_hooks for module in model.modules())


@KINDS
def test_scores_are_those_of_the_plain_twin(kind, quantised_folder, tokenizer):
    model = quantised(quantised_folder, kind)
    for locator in (None, LGA()):
        found, wanted = (
            torch.tensor(find_golden_layer(one, tokenizer, requests(6), locator, editor=ROME).choice.scores)
            for one in (model, twin(model))
        )
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@KINDS
def test_an_edit_in_place(kind, quantised_folder, tokenizer):
    model = quantised(quantised_folder, kind)
    delta, plain = ROME.compute(model, tokenizer, requests(1), 1), twin(model)
    site, before = edit_site(model, 1), edit_site(model, 1).weight
    delta.merge_(plain)
    wanted = plain(input_ids=ids()).logits
    with delta.attached(model):
        torch.testing.assert_close(model(input_ids=ids()).logits, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(site.weight, before, rtol=0, atol=0)
    with delta.applied(model):
        torch.testing.assert_close(model(input_ids=ids()).logits, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(site.weight, edit_site(plain, 1).weight)
    torch.testing.assert_close(site.weight, before, rtol=0, atol=0)


@KINDS
def test_nothing_is_merged(kind, quantised_folder, tokenizer):
    model = quantised(quantised_folder, kind)
    delta, before = ROME.compute(model, tokenizer, requests(1), 1), weights_hash(model)
    refused = rf"down_proj is quantised \({edit_site(model, 1).packing}\), so an edit .* as an adapter, .*`save_pretrained`.* bfloat16"
    with pytest.raises(ModelError, match=refused):
        delta.merge_(model)
    with pytest.raises(ModelError, match=refused):
        check_mergeable(model)
    check_mergeable(twin(model))
    assert weights_hash(model) == before


@KINDS
def test_peft_puts_the_adapter_on_top(kind, quantised_folder, tokenizer, tmp_path):
    model = quantised(quantised_folder, kind)
    delta, plain = ROME.compute(model, tokenizer, requests(1), 1), model(input_ids=ids()).logits
    delta.save_pretrained(tmp_path / "adapter", model)
    with delta.attached(model):
        edited = model(input_ids=ids()).logits
    assert (edited - plain).abs().max() > 1e-2
    again = WeightDelta.load(tmp_path / "adapter", model)
    torch.testing.assert_close(again.matrix(next(iter(again.updates))), delta.matrix(next(iter(delta.updates))))
    WeightDelta.load(tmp_path / "adapter", tiny_model("llama", **SIZES))  # of other bits: there is no telling
    with pytest.raises(DataError, match="whose weight here is another"):
        WeightDelta.load(tmp_path / "adapter", quantised(saved_model(tmp_path / "other", seed=1), kind))
    adapted = PeftModel.from_pretrained(load_model(str(quantised_folder), quantization=kind)[0], tmp_path / "adapter")
    torch.testing.assert_close(adapted(input_ids=ids()).logits, edited, rtol=1e-4, atol=1e-4)
