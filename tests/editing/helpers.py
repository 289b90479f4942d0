"""Quick methods, random edits and plain looks into a model, for the tests of this folder."""

from __future__ import annotations

import torch

from lga_lightning.covariance.curvature import Curvature
from lga_lightning.editing import (
    EMMET,
    FTL,
    FTM,
    MEMIT,
    PMET,
    ROME,
    RROME,
    AlphaEdit,
    CrispEdit,
    EditMethod,
    LocFT,
    UltraEdit,
)
from lga_lightning.editing.context_templates import in_contexts
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.updates import LowRankUpdate
from lga_lightning.models.architecture import edit_site
from tests.helpers.models import VOCABULARY
from tests.helpers.tokenizers import subject_last_token

MULTI_LAYER = [MEMIT, EMMET, AlphaEdit, PMET]
ALL = [ROME, RROME, *MULTI_LAYER, FTL, FTM, UltraEdit, LocFT, CrispEdit]
QUICK = {"steps": 4, "context_lengths": (3, 4), "contexts_each": 2}


def name_at(model, layer: int) -> str:
    """Name of a block's out-projection."""
    return edit_site(model, layer).name


def delta_for(model, ranks: dict[int, int], seed: int = 0, dtype: torch.dtype = torch.float64) -> WeightDelta:
    """A random edit of out-projections, with a rank by block."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) * 0.3

    return WeightDelta(
        {
            site.name: LowRankUpdate(
                random(site.out_features, ranks[site.layer]), random(ranks[site.layer], site.in_features)
            )
            for site in (edit_site(model, layer) for layer in ranks)
        }
    )


def ids(rows: int = 3) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, 7), generator=torch.Generator().manual_seed(1))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model, before: dict[str, torch.Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor.flatten().view(torch.uint8), before[name].flatten().view(torch.uint8)), name


def second_moments(model, layers) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = {}
    for layer in layers:
        width = edit_site(model, layer).in_features
        keys = torch.randn(3 * width, width, generator=generator, dtype=torch.float64)
        keys[:, width // 2 :] *= 0.05  # a part of the space that is hardly used, for AlphaEdit
        found[layer] = keys.T @ keys / len(keys)
    return found


def curvatures(model) -> dict[int, Curvature]:
    """Curvature of 200 tokens of which most lies in few directions."""
    keys, found, generator = second_moments(model, range(4)), {}, torch.Generator().manual_seed(4)
    for layer in keys:
        gradients = torch.randn(200, edit_site(model, layer).out_features, generator=generator, dtype=torch.float64)
        gradients *= torch.linspace(1, 0.1, gradients.shape[1])
        found[layer] = Curvature(keys[layer], gradients.T @ gradients / 200, 200)
    return found


def method_for(kind: type[EditMethod], model, **settings) -> EditMethod:
    """A quick method with second moments of its own for the model."""
    if kind in (FTL, FTM):
        return kind(steps=3, learning_rate=1e-2, epsilon=2e-2, batch_size=3, **settings)
    if issubclass(kind, LocFT | CrispEdit):
        method = kind(**{"epochs": 3, "learning_rate": 1e-2, "batch_size": 3, **settings})
        if kind is CrispEdit:
            method._curvatures[model] = curvatures(model)
        return method
    if kind is UltraEdit:
        return kind(**{"warmup": 4, **settings})
    if kind is AlphaEdit:
        settings.setdefault("l2", 0.1)
    if kind in (MEMIT, PMET):
        settings.setdefault("moment_weight", 2.0)
    if kind is EMMET:
        settings.setdefault("moment_weight", 3.0)
    method = kind(**{**QUICK, "second_moment": "sampled", **settings})
    method.covariance._covariances[model] = second_moments(model, range(4))
    return method


def look(model, tokenizer, request, contexts, layer, module):
    """Keys [K, d_in] of one request at a layer, and a module's output [d] on the bare prompt: whole passes, one by one."""
    site = edit_site(model, layer)
    keys, values = [], []
    for text in in_contexts([request], contexts)[0]:
        ids = tokenizer(text)["input_ids"]
        at = subject_last_token(tokenizer, request.prompt, request.subject)
        at += len(ids) - len(tokenizer(request.prompt)["input_ids"])

        def key(_, args, ids=ids, at=at):
            keys.append(args[0].reshape(1, len(ids), -1)[0, at])

        def value(_, args, output, ids=ids, at=at):
            values.append((output[0] if isinstance(output, tuple) else output).reshape(1, len(ids), -1)[0, at])

        handles = [site.module.register_forward_pre_hook(key), module.register_forward_hook(value)]
        try:
            model(torch.tensor([ids]))
        finally:
            for handle in handles:
                handle.remove()
    return torch.stack(keys), values[0]


def assert_changes(model, delta, changes):
    """An edit is these changes [d_out, d_in] of the out-projections, by block."""
    assert list(delta.updates) == [name_at(model, layer) for layer in sorted(changes)]
    for layer, change in changes.items():
        assert change.abs().max() > 1e-4
        torch.testing.assert_close(delta.matrix(name_at(model, layer)), change, rtol=1e-8, atol=1e-10)
