"""K-FAC's moments against autograd a token at a time, and projections against the whole Kronecker product."""

from __future__ import annotations

import json

import pytest
import torch

from lga_lightning.covariance import estimate
from lga_lightning.covariance.curvature import Curvature, CurvatureAccumulator, curvature_of, encode_pieces
from lga_lightning.covariance.estimate import find_curvatures
from lga_lightning.covariance.low_curvature import LowCurvature
from lga_lightning.covariance.store import CovarianceKey
from lga_lightning.exceptions import DataError
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.generation import sample
from tests.helpers.models import VOCABULARY, tiny_model


def texts(count: int = 5) -> list[list[int]]:
    """Token ids of texts of unequal lengths."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, VOCABULARY, (3 + 2 * n,), generator=generator).tolist() for n in range(count)]


def by_hand(model, layer: int, pieces: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """A, B and the number of tokens, one text and one token at a time; what they are made of makes up the weight's gradient."""
    site, seen = edit_site(model, layer), []

    def keep(module, args, output):
        output.retain_grad()
        seen[:] = [args[0].detach().reshape(-1, args[0].shape[-1]), output]

    model.requires_grad_(True)
    handle = site.module.register_forward_hook(keep)
    keys, gradients = [], []
    for piece in pieces:
        model.zero_grad(set_to_none=True)
        logits = model(torch.tensor([piece])).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, torch.tensor(piece[1:]), reduction="sum").backward()
        k, g = seen[0], seen[1].grad.reshape(-1, site.out_features)
        whole = sum(torch.outer(g[token], k[token]) for token in range(len(piece)))
        weight = site.module.weight.grad
        torch.testing.assert_close(whole, weight.T if site.transposed else weight)
        assert not g[-1].any()  # the last token predicts nothing
        keys += list(k[:-1])
        gradients += list(g[:-1])
    handle.remove()
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    count = len(keys)
    return sum(torch.outer(k, k) for k in keys) / count, sum(torch.outer(g, g) for g in gradients) / count, count


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt", "gptj", "gemma3_text"])
def test_equals_autograd_whatever_the_batches(family_name):
    model, pieces = tiny_model(family_name, torch.float64), texts()
    for size in (1, 2, 5):
        batches = [encode_pieces(pieces[start : start + size]) for start in range(0, 5, size)]
        found = curvature_of(model, [1, 3], batches)
        for layer in (1, 3):
            keys, gradients, count = by_hand(model, layer, pieces)
            assert found[layer].tokens == count == 30
            torch.testing.assert_close(found[layer].keys, keys, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(found[layer].gradients, gradients, rtol=1e-9, atol=1e-12)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_two_processes_and_two_texts_are_one():
    model, pieces = tiny_model("gpt2"), texts()
    whole = curvature_of(model, [1], [encode_pieces(pieces)])[1]
    shares = [CurvatureAccumulator(model, [1]) for _ in range(2)]
    for number, piece in enumerate(pieces):
        shares[number % 2].update(model, encode_pieces([piece]))
    tokens = sum(share.tokens for share in shares)
    both = shares[0].curvatures()[1] + shares[1].curvatures()[1]
    assert tokens == both.tokens == whole.tokens
    for name in ("keys", "gradients"):
        total = sum(getattr(share, f"{name}_1") for share in shares) / tokens
        torch.testing.assert_close(total, getattr(whole, name), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(getattr(both, name), total, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(shares[0].compute()[1][name], getattr(shares[0].curvatures()[1], name))


def test_autocast_around_it_changes_nothing():
    model, batch = tiny_model("llama"), encode_pieces(texts())
    expected = curvature_of(model, [1], [batch])[1]
    with torch.autocast("cpu"):
        found = curvature_of(model, [1], [batch])[1]
    assert torch.equal(found.keys, expected.keys)
    assert torch.equal(found.gradients, expected.gradients)


def test_the_cache_gives_it_back(tmp_path, tokenizer, monkeypatch):
    model = tiny_model("llama")
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"France is {'very ' * n}old"}) + "\n" for n in range(9)))
    first = find_curvatures(model, tokenizer, [1], str(path), 60, 8)
    monkeypatch.setattr(estimate, "curvature_of", lambda model, layers, batches: pytest.fail(f"estimated {layers}"))
    again = find_curvatures(model, tokenizer, [1], str(path), 60, 8)
    assert 40 < again[1].tokens == first[1].tokens < 60
    assert torch.equal(again[1].keys, first[1].keys)
    assert torch.equal(again[1].gradients, first[1].gradients)
    with pytest.raises(pytest.fail.Exception, match=r"estimated \[2\]"):
        find_curvatures(model, tokenizer, [1, 2], str(path), 60, 8)
    monkeypatch.undo()


def test_the_model_s_own_text(tokenizer):
    model = tiny_model("llama")
    found = find_curvatures(model, tokenizer, [2], "sampled", 100, 16)[2]
    pieces = [row[: max(0, 100 - 16 * number)] for number, row in enumerate(sample(model, tokenizer, 32, 16, 0))]
    expected = curvature_of(model, [2], [encode_pieces([piece]) for piece in pieces if len(piece) > 1])[2]
    assert found.tokens == expected.tokens == 100 - 7
    torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-4, atol=1e-8)


def test_curvature_of_nan_is_not_kept(tmp_path, tokenizer):
    model = tiny_model("llama")
    model.model.layers[2].mlp.up_proj.weight.data[3] = torch.nan
    text = tmp_path / "text.txt"
    text.write_text("Rome is in Italy, and Paris is in France.")
    with pytest.raises(
        DataError, match=r"curvature of block 1 holds NaN or infinite numbers.*float16 try --model.dtype"
    ):
        find_curvatures(model, tokenizer, [1], str(text), 20)
    assert not list(CovarianceKey.of(model, tokenizer, str(text), 20, 256).folder.glob("*.safetensors"))


def test_no_text(tmp_path, tokenizer):
    (tmp_path / "one.txt").write_text("a")
    with pytest.raises(DataError, match="no token whose loss bends"):
        find_curvatures(tiny_model("llama"), tokenizer, [1], str(tmp_path / "one.txt"), 1)


def random_curvature(d_out: int, d_in: int, seed: int = 0) -> Curvature:
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.randn(30, d, generator=generator, dtype=torch.float64) * 2.0 ** -torch.arange(d) for d in (d_in, d_out)
    ]
    return Curvature(*(row.T @ row / 30 for row in rows), tokens=30)


@pytest.mark.parametrize("energy", [0.01, 0.5, 0.8, 0.999, 1 - 1e-15])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 5)])
def test_projections_are_those_of_the_whole_product(shape, energy):
    curvature = random_curvature(*shape)
    values, vectors = torch.linalg.eigh(
        torch.kron(curvature.gradients, curvature.keys)
    )  # of row by row flattened matrices
    taken, total = [], 0.0
    for number in values.argsort(descending=True):
        if total < energy * values.sum():
            taken.append(vectors[:, number])
            total += values[number]
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, 3, shape[1], generator=generator, dtype=torch.float64)
    outputs = torch.randn(2, 3, shape[0], generator=generator, dtype=torch.float64)
    gradients = outputs.mT @ inputs
    away = torch.stack([sum((v @ gradient.flatten()) * v for v in taken).view(shape) for gradient in gradients])
    low = LowCurvature.of(curvature, energy, gradients)
    torch.testing.assert_close(low(gradients), gradients - away, rtol=1e-8, atol=1e-10)
    p, q = low.removed(inputs, outputs)
    torch.testing.assert_close(p.mT @ q, away, rtol=1e-8, atol=1e-10)
    assert p.shape[1] <= min(shape)
    torch.testing.assert_close((p.square().sum(-1) * q.square().sum(-1)).sum(1), away.square().sum((1, 2)))


def test_no_curvature_leaves_everything():
    flat = Curvature(torch.zeros(3, 3, dtype=torch.float64), torch.eye(2, dtype=torch.float64), 1)
    gradient = torch.ones(2, 3, dtype=torch.float64)
    torch.testing.assert_close(LowCurvature.of(flat, 0.8, gradient)(gradient), gradient)
