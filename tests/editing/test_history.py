"""The keys of a session's earlier edits in its later ones, against normal equations with all keys written out."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing import EMMET, MEMIT, PMET, ROME, RROME, AlphaEdit
from lga_lightning.editing.history import remember, solve_with_history
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site
from tests.editing.helpers import method_for, name_at
from tests.helpers.models import requests, tiny_model

EXACT = pytest.mark.usefixtures("exact")
LAYER = 2


def of_groups(kind, tokenizer, family, **settings):
    """A session of three groups of two, with what each group added, its mean keys and the change of value that it asked for."""
    model, data = tiny_model(family, torch.float64), requests(6)
    method = method_for(kind, model, moment_weight=2.0, **settings)
    session, steps = EditSession(method, model, tokenizer, LAYER), []
    name = name_at(model, LAYER)
    for start in (0, 2, 4):
        before = session.delta.matrix(name).clone() if session.delta.updates else 0
        with session.delta.applied(model):
            targets = method.optimize_targets(model, tokenizer, data[start : start + 2], [LAYER])
        keys = targets.keys.mean(1) if kind in (ROME, RROME) else method.contexts.grouped_mean(targets.keys)
        session.edit_targets(targets)
        steps.append((session.delta.matrix(name) - before, keys, targets))
    return model, method, session, steps


def weighted(method, model, steps):
    """lambda C + Kp Kp^T."""
    return 2.0 * method.covariance._covariances[model][LAYER] + sum(keys.T @ keys for _, keys, _ in steps)


@EXACT
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", [MEMIT, PMET])
def test_memit_solves_its_normal_equations_with_all_earlier_keys(kind, family, tokenizer):
    model, method, session, steps = of_groups(kind, tokenizer, family, history=True)
    for number, (change, keys, targets) in enumerate(steps):
        k = keys.T
        left = change @ (weighted(method, model, steps[:number]) + k @ k.T)
        torch.testing.assert_close(left, targets.delta.T @ k.T, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(session.history[LAYER], torch.cat([keys for _, keys, _ in steps]), rtol=1e-8, atol=1e-8)


@EXACT
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_emmet_by_definition_with_all_earlier_keys(family, tokenizer):
    model, method, _, steps = of_groups(EMMET, tokenizer, family, history=True)
    for number, (change, keys, targets) in enumerate(steps):
        inverse = torch.linalg.inv(weighted(method, model, steps[:number]))
        inner = keys @ inverse @ keys.T + 0.1 * torch.eye(2).double()
        expected = targets.delta.T @ torch.linalg.inv(inner) @ keys @ inverse
        torch.testing.assert_close(change, expected, rtol=1e-8, atol=1e-8)


@EXACT
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rrome_writes_along_the_weighted_keys(family, tokenizer):
    """Each group's change lies in the span of (lambda C + Kp Kp^T)^-1 k, and gives all but the first key their values exactly."""
    model, method, _, steps = of_groups(RROME, tokenizer, family, history=True)
    for number, (change, keys, targets) in enumerate(steps):
        metric = weighted(method, model, steps[:number])
        span = torch.linalg.inv(metric) @ keys.T
        inside = change @ torch.linalg.pinv(span.T) @ span.T
        torch.testing.assert_close(inside, change, rtol=1e-8, atol=1e-8)
        # one rank-one update behind the other: the first gives k0 its value, the second k1 its own
        value = edit_site(model, LAYER).values
        so_far = sum(step for step, _, _ in steps[:number])
        bare = targets.keys[:, 0]
        missing = value(bare) + targets.delta - value(keys) + ((bare - keys) @ so_far.T if number else 0)
        first = torch.outer(missing[0], span[:, 0]) / (keys[0] @ span[:, 0])
        second = torch.outer(missing[1] - first @ keys[1], span[:, 1]) / (keys[1] @ span[:, 1])
        torch.testing.assert_close(change, first + second, rtol=1e-8, atol=1e-8)


def test_rome_remembers_the_keys_that_it_writes(tokenizer):
    _, _, session, steps = of_groups(ROME, tokenizer, "llama", history=True)
    written = torch.cat([targets.keys[:, 0] for _, _, targets in steps])
    torch.testing.assert_close(session.history[LAYER], written)


@pytest.mark.parametrize("kind", [ROME, RROME, MEMIT, EMMET, PMET])
def test_without_a_history_nothing_changes_but_with_one_something_does(kind, tokenizer):
    _, method, session, steps = of_groups(kind, tokenizer, "llama")
    assert session.history is None
    assert method.settings(session.model)["history"] is False
    _, other, _, with_history = of_groups(kind, tokenizer, "llama", history=True)
    assert other.settings(session.model)["history"] is True
    torch.testing.assert_close(steps[0][0], with_history[0][0])
    assert (steps[1][0] - with_history[1][0]).abs().max() > 1e-6
    model, data = session.model, requests(6)
    with (steps_delta := method.compute(model, tokenizer, data[:2], LAYER)).applied(model):
        alone = method.compute(model, tokenizer, data[2:4], LAYER)
    torch.testing.assert_close(steps_delta.matrix(name_at(model, LAYER)), steps[0][0])
    torch.testing.assert_close(alone.matrix(name_at(model, LAYER)), steps[1][0], rtol=1e-6, atol=1e-8)


def test_a_long_history_takes_no_more_room_than_the_width_and_loses_nothing():
    keys = torch.randn(23, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = None
    for part in keys.split(3):
        factor = remember(factor, part)
        assert len(factor) <= 7
    torch.testing.assert_close(factor.T @ factor, keys.T @ keys, rtol=1e-12, atol=1e-12)


@EXACT
@pytest.mark.parametrize("kind", [MEMIT, EMMET, AlphaEdit])
def test_a_compacted_history_gives_the_same_update(kind, tokenizer):
    model = tiny_model("llama", torch.float64)
    method = method_for(kind, model)
    generator = torch.Generator().manual_seed(5)
    earlier, keys = (torch.randn(rows, 40, generator=generator, dtype=torch.float64) for rows in (90, 3))
    compacted = remember(None, earlier)
    assert compacted.shape == (40, 40)
    plain = method.solve_update(model, LAYER, keys, earlier)
    torch.testing.assert_close(method.solve_update(model, LAYER, keys, compacted), plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rows", [3, 40, 55])
def test_solutions_are_those_of_the_matrix_written_out(rows):
    model = tiny_model("llama", torch.float64)
    method = method_for(MEMIT, model)
    earlier, keys = torch.randn(rows, 40).double(), torch.randn(4, 40).double()
    found = solve_with_history(method.covariance, model, LAYER, keys, 0.5, earlier)
    matrix = 0.5 * method.covariance._covariances[model][LAYER] + earlier.T @ earlier
    torch.testing.assert_close(found, torch.linalg.solve(matrix, keys.T).T, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", [ROME, MEMIT])
def test_a_weight_must_be_above_zero(kind):
    with pytest.raises(SettingError, match="`moment_weight` must be above 0, got 0"):
        kind(moment_weight=0.0)
