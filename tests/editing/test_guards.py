"""Guards against plain dense algebra in float64, on every method."""

from __future__ import annotations

import math
from inspect import isfunction

import pytest
import torch

from lga_lightning.editing import (
    FTM,
    MEMIT,
    RROME,
    DenseUpdate,
    EditMethod,
    Guarded,
    NormGuard,
    SingularGuard,
    WeightDelta,
)
from lga_lightning.editing.guards import Guard, singular_directions
from lga_lightning.editing.in_place import unedited_weight, update_in_place
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import ALL, delta_for, method_for, name_at
from tests.helpers.models import requests, tiny_model

EXACT = {"rtol": 1e-10, "atol": 1e-10}


class Halved(Guard):
    """A guard of somebody else's."""

    def apply_at(self, model, site, update):
        return update.scaled(0.5)

    def settings(self):
        return {"name": "Halved"}


def spared(weight, energy, side, strength=1.0):
    """P_out and P_in as dense matrices, by a whole singular value decomposition."""
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    held = 0.0
    count = 0
    while held < energy * sizes.square().sum():
        held += sizes[count].square()
        count += 1
    u, v = left[:, :count], right[:count].T
    eye_out, eye_in = torch.eye(len(u)).double(), torch.eye(len(v)).double()
    p_out = eye_out if side == "input" else eye_out - strength * u @ u.T
    p_in = eye_in if side == "output" else eye_in - strength * v @ v.T
    return p_out, p_in


def scale_by_search(weight, earlier, change, limit):
    """The largest step in [0, 1] within the bound, by bisection on dense matrices."""

    def fits(step):
        return (earlier + step * change).norm() <= limit * weight.norm()

    low, high = 0.0, 1.0
    if fits(1.0):
        return 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@pytest.mark.parametrize("side", ["input", "output", "both"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])  # GPT-2's matrix is stored transposed
@pytest.mark.parametrize(("energy", "strength"), [(0.3, 1.0), (0.7, 0.5)])
def test_singular_guard_is_a_projection(side, family, energy, strength):
    model, guard = tiny_model(family, torch.float64), SingularGuard(energy, side, strength)
    edit = delta_for(model, {1: 2, 2: 5})
    edit += WeightDelta({name_at(model, 3): DenseUpdate(delta_for(model, {3: 7}).matrix(name_at(model, 3)))})
    found = guard.apply(model, edit)
    assert list(found.updates) == list(edit.updates)
    for layer in (1, 2, 3):
        name, weight = name_at(model, layer), edit_site(model, layer).weight
        p_out, p_in = spared(weight, energy, side, strength)
        torch.testing.assert_close(found.matrix(name), p_out @ edit.matrix(name) @ p_in, **EXACT)
        assert (found.matrix(name) - edit.matrix(name)).norm() > 0.1 * edit.matrix(name).norm()
    assert [found.updates[name_at(model, layer)].rank for layer in (1, 2)] == [2, 5]
    assert len(found.updates[name_at(model, 1)].factors) == 2


def test_directions_of_any_shape():
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 9), (9, 5), (6, 6)):
        weight = torch.randn(shape, generator=generator, dtype=torch.float64)
        for energy in (1e-6, 0.5, 0.999999):
            p_out, p_in = spared(weight, energy, "both")
            left, right = singular_directions(weight, energy)
            torch.testing.assert_close(left @ left.T, torch.eye(shape[0]).double() - p_out, **EXACT)
            torch.testing.assert_close(right @ right.T, torch.eye(shape[1]).double() - p_in, **EXACT)
    assert [part.shape for part in singular_directions(torch.zeros(3, 4), 0.5)] == [(3, 0), (4, 0)]
    assert singular_directions(torch.ones(3, 4, dtype=torch.bfloat16), 0.5)[0].dtype == torch.float32


@pytest.mark.parametrize("dense", [False, True])
def test_norm_guard_counts_all_edits_in_place(dense):
    model, name = tiny_model("gpt2", torch.float64), "transformer.h.1.mlp.c_proj"
    weight = edit_site(model, 1).weight.clone()
    guard, total, steps = NormGuard(0.3), WeightDelta({}), []
    for seed, size in enumerate((0.2, 0.2, 1.0, -0.5, 1.0, 1.0)):
        asked = delta_for(model, {1: 2}, seed=seed % 4)
        change = asked.matrix(name)
        asked = WeightDelta({name: asked.updates[name].scaled(size * 0.2 * (weight.norm() / change.norm()).item())})
        if dense:
            asked = WeightDelta({name: DenseUpdate(asked.matrix(name))})
        earlier = total.matrix(name) if total.updates else torch.zeros_like(weight)
        with total.applied(model):
            left = guard.apply(model, asked)
        step = scale_by_search(weight, earlier, asked.matrix(name), 0.3)
        torch.testing.assert_close(left.matrix(name), step * asked.matrix(name), **EXACT)
        total += left
        steps.append(step)
        assert total.matrix(name).norm() <= 0.3 * weight.norm() * (1 + 1e-12)
    assert steps[0] == 1
    assert any(0 < step < 1 for step in steps)
    assert torch.equal(edit_site(model, 1).weight, weight)


def test_an_edit_outside_the_bound_is_left_at_that():
    model, name = tiny_model("llama", torch.float64), "model.layers.1.mlp.down_proj"
    edit = delta_for(model, {1: 2})
    with edit.applied(model):
        assert NormGuard(1e-3).apply(model, edit).matrix(name).norm() == 0
        back = WeightDelta({name: edit.updates[name].scaled(-1.0)})
        assert NormGuard(1e-3).apply(model, back).updates[name] is back.updates[name]


@pytest.mark.parametrize("kind", ALL)
def test_every_method_under_guards(kind, tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(3)
    method, guards = method_for(kind, model), [SingularGuard(0.4), NormGuard(0.01)]
    plain = method.compute_each(model, tokenizer, data, [1, 2])
    found = Guarded(method, guards).compute_each(model, tokenizer, data, [1, 2])
    for one, other in zip(plain, found, strict=True):
        assert list(other.updates) == list(one.updates)
        assert other.ranks == one.ranks
        assert other.is_dense == one.is_dense
        for name, update in one.updates.items():
            weight = model.get_submodule(name).weight
            p_out, p_in = spared(weight, 0.4, "both")
            change = p_out @ update.matrix.double() @ p_in
            step = min(1.0, 0.01 * (weight.norm() / change.norm()).item()) if change.norm() else 1.0
            torch.testing.assert_close(other.matrix(name).double(), step * change, rtol=1e-8, atol=1e-10)
    loose = Guarded(method, [NormGuard(1e9)]).compute_each(model, tokenizer, data, [1, 2])
    assert all(
        torch.equal(a.matrix(name), b.matrix(name)) for a, b in zip(plain, loose, strict=True) for name in a.updates
    )


@pytest.mark.parametrize("kind", [RROME, FTM])
def test_a_session_of_guarded_edits(kind, tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(6)
    method, name = method_for(kind, model), name_at(model, 1)
    weight = edit_site(model, 1).weight.clone()
    first = method.compute(model, tokenizer, data[:2], 1).matrix(name)
    limit = 1.2 * (first.norm() / weight.norm()).item()
    session = EditSession(Guarded(method, [NormGuard(limit)]), model, tokenizer, 1)
    earlier, steps = torch.zeros_like(weight), []
    for start in (0, 2, 4):
        with session.delta.applied(model):
            change = method.compute(model, tokenizer, data[start : start + 2], 1).matrix(name)
        session.edit(data[start : start + 2])
        steps.append(scale_by_search(weight, earlier, change, limit))
        torch.testing.assert_close(session.delta.matrix(name), earlier + steps[-1] * change, rtol=1e-8, atol=1e-10)
        earlier = session.delta.matrix(name)
    assert steps[0] == 1
    assert min(steps) < 1
    assert session.relative_norms()[1] <= limit * (1 + 1e-6)


def test_the_unedited_weights_are_those_without_edits_in_place():
    model = tiny_model("gpt2", torch.float64)
    site, other = edit_site(model, 1), edit_site(model, 2)
    before = site.weight.clone()
    first, second = delta_for(model, {1: 1}), delta_for(model, {1: 2, 2: 1}, seed=1)
    assert update_in_place(model, site.name) is None
    with first.applied(model), second.applied(model):
        assert torch.equal(unedited_weight(model, site), before)
        torch.testing.assert_close(update_in_place(model, site.name).matrix, (first + second).matrix(site.name))
        torch.testing.assert_close(update_in_place(model, other.name).matrix, second.matrix(other.name))
        late = SingularGuard(0.5).directions(model, site)
    assert update_in_place(model, site.name) is None
    assert unedited_weight(model, site) is not before
    assert torch.equal(unedited_weight(model, site), before)
    early = SingularGuard(0.5).directions(model, site)
    assert all(torch.equal(*pair) for pair in zip(late, early, strict=True))
    with pytest.raises(RuntimeError), first.applied(model):
        raise RuntimeError
    assert update_in_place(model, site.name) is None


def test_directions_are_those_of_the_weight_as_it_is_by_now():
    model = tiny_model("llama", torch.float64)
    guard, site = SingularGuard(0.5), edit_site(model, 1)
    before = guard.directions(model, site)
    assert guard.directions(model, site) is before  # found once
    edit = WeightDelta({name: update.scaled(20.0) for name, update in delta_for(model, {1: 4}).updates.items()})
    with edit.applied(model):  # in place, but not for good
        assert guard.directions(model, site) is before
    edit.merge_(model)
    for found, expected in zip(guard.directions(model, site), singular_directions(site.weight, 0.5), strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.equal(guard.directions(model, site)[0], before[0])


def test_guards_come_in_their_order():
    model, edit = tiny_model("llama", torch.float64), None
    edit, name = delta_for(model, {1: 1}), name_at(model, 1)
    weight = edit_site(model, 1).weight
    bound = 0.01 * weight.norm()
    both = [SingularGuard(0.6), NormGuard(0.01)]
    one = both[1].apply(model, both[0].apply(model, edit)).matrix(name)
    other = both[0].apply(model, both[1].apply(model, edit)).matrix(name)
    assert one.norm().item() == pytest.approx(bound.item())
    assert other.norm() < 0.99 * bound


def test_the_wrapper_stands_for_the_method_in_everything():
    delegated = {name for name, part in vars(EditMethod).items() if isfunction(part) and not name.startswith("_")}
    built_on_others = {"compute", "compute_each", "compute_groups", "write_groups", "settings_by_layer"}
    assert delegated - built_on_others <= vars(Guarded).keys()
    model = tiny_model("llama")
    for kind in ALL:
        assert not built_on_others & {
            name for parent in kind.__mro__[: kind.__mro__.index(EditMethod)] for name in vars(parent)
        }
        method = method_for(kind, model)
        wrapped = Guarded(method, [Halved()])
        for name in ("window", "keeps_history", "needs_subject"):
            assert getattr(wrapped, name) == getattr(method, name)
        assert wrapped.window_at(2) == method.window_at(2)
        assert wrapped.default_layers(model) == method.default_layers(model)
        assert wrapped.settings_by_layer(model) == {**wrapped.settings(model), "window": method.window}
        settings = wrapped.settings(model)
        assert settings.pop("guards") == [{"name": "Halved"}]
        assert settings == {**method.settings(model), "name": f"{method.name} with Halved"}
        assert wrapped.name == settings["name"]


def test_a_guard_from_outside(tokenizer):
    model, data = tiny_model("llama"), requests(2)
    method, name = method_for(MEMIT, model), name_at(model, 2)
    plain = method.compute(model, tokenizer, data, 2).matrix(name)
    found = Guarded(method, [Halved()]).compute(model, tokenizer, data, 2).matrix(name)
    torch.testing.assert_close(found, plain / 2)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: NormGuard(0), "`limit` of NormGuard is a share .* above 0, got 0"),
        (lambda: NormGuard(math.nan), "got nan"),
        (lambda: NormGuard(math.inf), "got inf"),
        (lambda: SingularGuard(1.0), "`energy` of SingularGuard .* below 1, got 1.0"),
        (lambda: SingularGuard(side="left"), r"`side` .* \['input', 'output', 'both'\], got 'left'"),
        (lambda: SingularGuard(strength=0.0), "`strength` .* above 0 and at most 1, got 0.0"),
        (lambda: Guarded(MEMIT(), []), "`guards` is empty"),
    ],
)
def test_bad_settings(build, said):
    with pytest.raises(SettingError, match=said):
        build()
