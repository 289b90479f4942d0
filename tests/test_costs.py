"""The formulas of ``benchmarks/costs.py`` against what PyTorch counts and keeps on tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lga_lightning.editing import RROME
from lga_lightning.locators.first_order import encode_rows, forecast_rows

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
REQUESTS, LAYER = 4, 1


class Counter(TorchDispatchMode):
    """Adds up the FLOPs of matrix products. PyTorch's own counter does not take graphs that begin within the model."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def counted(call):
    with Counter() as counter:
        call()
    return counter.total


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(params=["gpt2-xl", "llama-2-7b", "gemma-3-12b"])
def made(request):
    from gpu import MODELS, tiny
    from random_models import random_requests, word_tokenizer

    random_model = tiny(MODELS[request.param][0])
    model = random_model.make("cpu", torch.float32, "eager")
    vocabulary = random_model.shape.vocabulary
    return model, random_model.shape, word_tokenizer(vocabulary), random_requests(REQUESTS, vocabulary)


@pytest.fixture
def rows(made):
    from costs import Rows

    found = encode_rows(made[2], made[3], [[] for _ in made[3]])
    return found, Rows(len(found.batch), *found.batch.input_ids.shape[1:], *found.batch.positions.shape[1:])


def test_passes_and_forecasts(made, rows):
    import costs
    from gpu import autograd, bare

    (model, shape, *_), (encoded, size) = made, rows
    editor = RROME(second_moment="identity")
    assert counted(lambda: bare(model, encoded)) == costs.pass_flops(shape, size)
    assert counted(lambda: autograd(model, encoded)) == costs.autograd_flops(shape, size)
    found = counted(lambda: forecast_rows(model, editor, encoded, REQUESTS))
    assert found == costs.forecast_flops(shape, size, REQUESTS)


def test_edits(made):
    import costs
    from random_models import rows_of_search

    model, shape, tokenizer, requests = made
    editor = RROME(second_moment="identity", context_lengths=(6,), contexts_each=2, steps=4, stop_loss=0.0)
    editor.prepare(model, tokenizer, [LAYER])
    found = counted(lambda: editor.optimize_targets(model, tokenizer, requests, [LAYER]))
    assert found == costs.edit_flops(shape, *rows_of_search(REQUESTS, 3, 6), LAYER, 3)


def test_what_is_kept(made, rows):
    from costs import kept_bytes

    (model, shape, *_), (encoded, size) = made, rows
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forecast_rows(model, RROME(second_moment="identity"), encoded, REQUESTS)
    assert sum(kept.values()) == pytest.approx(kept_bytes(shape, size, 4), rel=0.25)


def test_weights_of_the_real_models():
    """As published: 1.56, 6.74, 11.77 and 30.5 billion."""
    from gpu import MODELS

    billions = [model.shape.weights / 1e9 for model, _ in MODELS.values()]
    assert billions == pytest.approx([1.56, 6.74, 11.77, 30.5], rel=0.005)


def test_communication():
    from costs import Shape, exchange_bytes, gather_bytes, hand_over_bytes, read_bytes, reduce_bytes, weight_bytes

    dense = Shape(2, 8, 2, 2, 4, 16, 10)
    assert weight_bytes(dense) == 2 * (2 * (4 * 64 + 3 * 128) + 160)
    assert gather_bytes(dense, 1) == reduce_bytes(dense, 5, 1) == hand_over_bytes(dense, 5, 1) == 0
    assert gather_bytes(dense, 4) == 2 * weight_bytes(dense) * 3 / 4
    assert reduce_bytes(dense, 5, 2) == 2 * 4 * (5 * 8 * 2)  # each sum: half out and half in, twice
    outputs, inputs = (8 + 8 + 8 + 8) + (16 + 16 + 8), (8 + 8 + 8 + 8) + (8 + 8 + 16)  # of attention, and of the MLP
    assert exchange_bytes(dense, 5, 2, both_ways=False) == 2 * outputs * 5 * 2 / 2
    assert exchange_bytes(dense, 5, 2) == 2 * (outputs + 2 * inputs) * 5 * 2 / 2
    assert hand_over_bytes(dense, 5, 3) == 4 * (5 * 8 * 2)
    experts = Shape(2, 8, 2, 2, 4, 16, 10, experts=4, active=1)
    all_met, one_met = read_bytes(experts, 10**4), read_bytes(experts, 1)
    assert all_met == pytest.approx(weight_bytes(experts) - 160)  # one of the embeddings is looked up, not read
    assert all_met - one_met == pytest.approx(2 * 2 * 3 * experts.mlp)
