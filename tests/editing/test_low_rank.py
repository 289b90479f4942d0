"""Edits of a lower rank than they have: the nearest ones, and what they lack."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from lga_lightning.editing import DenseUpdate, LocFT, LowRankUpdate, WeightDelta
from lga_lightning.exceptions import SettingError
from tests.editing.helpers import ids, method_for
from tests.helpers.models import requests, tiny_model


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "update",
    [
        DenseUpdate(draw(9, 14)),
        DenseUpdate(draw(14, 9)),
        LowRankUpdate(draw(14, 6), draw(6, 9, seed=1)),
        LowRankUpdate(draw(9, 12), draw(12, 14, seed=1)),
    ],
    ids=repr,
)
def test_the_nearest_of_a_rank(update):
    sizes = torch.linalg.svdvals(update.matrix)
    for rank in range(1, 15):
        cut, error = update.low_rank(rank)
        assert cut.rank <= rank
        lacking = cut.matrix - update.matrix
        expected = (sizes[rank:].square().sum() / sizes.square().sum()).sqrt()  # Eckart and Young
        torch.testing.assert_close(lacking.norm() / sizes.norm(), expected, rtol=1e-9, atol=1e-14)
        assert error.frobenius == pytest.approx(float(expected), rel=1e-9, abs=1e-14)
        spectral = torch.linalg.matrix_norm(lacking, 2) / sizes[0]
        assert error.spectral == pytest.approx(float(spectral), rel=1e-9, abs=1e-14)
        assert cut.shape == update.shape
    if isinstance(update, DenseUpdate):
        assert torch.equal(cut.matrix, update.matrix)  # bit for bit, where there is room


def test_what_has_room_stays_as_it_is():
    update = LowRankUpdate(draw(9, 2), draw(2, 14))
    assert update.low_rank(2) == (update, (0, 0))
    assert DenseUpdate(torch.zeros(3, 4)).low_rank(1)[1] == (0, 0)
    half, error = DenseUpdate(draw(9, 14).bfloat16()).low_rank(3)
    assert half.matrix.dtype == torch.float32
    assert 0 < error.frobenius < 1
    for wrong in (update, DenseUpdate(draw(9, 14))):
        with pytest.raises(SettingError, match="`rank` must be at least 1, got 0"):
            wrong.low_rank(0)


@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_a_dense_edit_as_an_adapter(family_name, tokenizer, tmp_path):
    model = tiny_model(family_name)
    whole = method_for(LocFT, model).compute(model, tokenizer, requests(6), [1, 2])
    for rank in (24, 5):
        cut, errors = whole.low_rank(rank)
        folder = tmp_path / str(rank)
        cut.save_pretrained(folder, model)
        again = WeightDelta.load(folder, model)
        assert not again.is_dense
        for name, error in errors.items():
            matrix = whole.matrix(name)
            if rank == 24:
                assert error == (0, 0)
                assert torch.equal(again.matrix(name), matrix)
            sizes = torch.linalg.svdvals(matrix.double())
            expected = float(sizes[rank:].norm() / sizes.norm())
            assert error.frobenius == pytest.approx(expected, rel=1e-4)
            assert float((again.matrix(name) - matrix).norm() / matrix.norm()) == pytest.approx(expected, rel=1e-4)
        with cut.applied(model):
            edited = model(input_ids=ids()).logits
        adapted = PeftModel.from_pretrained(tiny_model(family_name), folder)
        torch.testing.assert_close(adapted(input_ids=ids()).logits, edited, rtol=1e-4, atol=1e-4)
