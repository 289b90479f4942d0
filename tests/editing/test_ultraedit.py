"""UltraEdit against plain loops in float64, and what only it has: running statistics, several modules, StableEdit's settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from lga_lightning.data.loading import load_requests
from lga_lightning.editing import ultraedit
from lga_lightning.editing.answer_gradients import AnswerRows, answer_gradients, pieces
from lga_lightning.editing.presets import ULTRAEDIT_LAYERS, ULTRAEDIT_RATES
from lga_lightning.editing.running_statistics import RunningStatistics
from lga_lightning.editing.session import EditSession
from lga_lightning.editing.ultraedit import UltraEdit
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.exceptions import DataError, LayerError, ModelError, SettingError
from lga_lightning.locators.first_order import encode_rows, forecast_rows
from lga_lightning.models.architecture import edit_site, matrices_to_edit
from lga_lightning.modules.schedules import SCHEDULES
from tests.editing.helpers import assert_same_bits, ids, name_at, weights
from tests.helpers.models import requests, tiny_model

RATE, EPSILON = 3e-3, torch.finfo(torch.float32).eps
CLOSE = {"rtol": 1e-8, "atol": 1e-11}
FAMILIES = pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt"])


def answer_ids(tokenizer, request):
    return tokenizer(" " + request.target_new, add_special_tokens=False)["input_ids"]


def look(model, tokenizer, request, names):
    """Inputs and output gradients of modules where one request's answer is predicted, and their weights' gradients: a whole pass."""
    prompt, answer = tokenizer(request.prompt)["input_ids"], answer_ids(tokenizer, request)
    places = slice(len(prompt) - 1, -1)
    seen = {}

    def keep(name):
        def hook(module, args, output):
            output.retain_grad()
            seen[name] = (args[0].detach(), output)

        return hook

    model.requires_grad_(True)
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    logits = model(torch.tensor([prompt + answer])).logits[0, places]
    cross_entropy(logits, torch.tensor(answer), reduction="sum").backward()
    for handle in handles:
        handle.remove()
    found, slopes = {}, {}
    for name in names:
        inputs, output = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (seen[name][0], seen[name][1].grad))
        found[name] = (inputs[places], output[places])
        gradient = model.get_submodule(name).weight.grad.clone()
        slopes[name] = gradient.T if type(model.get_submodule(name)).__name__ == "Conv1D" else gradient
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    return found, slopes


def normalised(rows, seen):
    return (rows - seen.mean(0)) / (seen.std(0) + EPSILON)


def update(keys, gradients, all_keys, all_gradients, ridge=1.0, rate=RATE):
    """The paper's system, of the width of the keys: [d_out, d_in]."""
    size = normalised(keys, all_keys).square().sum(1, keepdim=True)
    values = -rate * size * normalised(gradients, all_gradients)
    system = keys.T @ keys + ridge * torch.eye(keys.shape[1], dtype=keys.dtype)
    return torch.linalg.solve(system, keys.T @ values).T


def gathered(model, tokenizer, data, name):
    parts = [look(model, tokenizer, request, [name])[0][name] for request in data]
    return torch.cat([keys for keys, _ in parts]), torch.cat([gradients for _, gradients in parts])


@pytest.mark.usefixtures("exact")
@FAMILIES
def test_an_edit_is_the_papers_system(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(5)
    delta = UltraEdit(RATE, warmup=0).compute(model, tokenizer, data, [1, 3], batch_size=2)
    assert list(delta.updates) == [name_at(model, 1), name_at(model, 3)]
    tokens = sum(len(answer_ids(tokenizer, request)) for request in data)
    for name in delta.updates:
        keys, gradients = gathered(model, tokenizer, data, name)
        expected = update(keys, gradients, keys, gradients)
        assert expected.abs().max() > 1e-5
        torch.testing.assert_close(delta.matrix(name), expected, **CLOSE)
        assert delta.ranks[name] == tokens


@pytest.mark.usefixtures("exact")
@FAMILIES
def test_a_warm_up_is_where_statistics_begin(family_name, tokenizer):
    model, data = tiny_model(family_name, torch.float64), requests(3)
    method = UltraEdit(RATE, ridge=3.0, warmup=5)
    facts, name = load_requests(limit=5).requests, name_at(model, 2)
    before = gathered(model, tokenizer, facts, name)
    for request, delta in zip(data, method.compute_each(model, tokenizer, data, 2), strict=True):
        keys, gradients = gathered(model, tokenizer, [request], name)
        seen = [torch.cat(pair) for pair in zip(before, (keys, gradients), strict=True)]
        torch.testing.assert_close(delta.matrix(name), update(keys, gradients, *seen, ridge=3.0), **CLOSE)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("warmup", [0, 3])
def test_a_session_normalises_by_all_that_it_has_seen(warmup, tokenizer):
    model, plain, data = (*(tiny_model("llama", torch.float64) for _ in range(2)), requests(6))
    run = EditSession(UltraEdit(RATE, warmup=warmup), model, tokenizer, 1)
    name = name_at(model, 1)
    facts = load_requests(limit=warmup).requests if warmup else []
    parts = [gathered(plain, tokenizer, facts, name)] if facts else []
    for start in (0, 2, 4):
        group = data[start : start + 2]
        run.edit(group, batch_size=1)
        parts.append(gathered(plain, tokenizer, group, name))
        seen = [torch.cat(pair) for pair in zip(*parts, strict=True)]
        with torch.no_grad():
            edit_site(plain, 1).weight.add_(update(*parts[-1], *seen))
    change = edit_site(plain, 1).weight - edit_site(model, 1).weight
    torch.testing.assert_close(run.delta.matrix(name), change, **CLOSE)
    assert run.history[name].keys.count == len(seen[0])
    other = EditSession(run.method, model, tokenizer, 1)
    assert other.history == {}


@pytest.mark.usefixtures("exact")
def test_the_size_of_a_batch_changes_nothing(tokenizer):
    model, data, method = tiny_model("gpt2", torch.float64), requests(7), UltraEdit(warmup=4)
    name = name_at(model, 2)
    alone = [method.compute_each(model, tokenizer, [request], [2])[0] for request in data]
    for one, other in zip(alone, method.compute_each(model, tokenizer, data, [2]), strict=True):
        torch.testing.assert_close(one.matrix(name), other.matrix(name), **CLOSE)
    together = [method.compute(model, tokenizer, data, 2, batch_size=size).matrix(name) for size in (1, 3, 7)]
    for one in together[1:]:
        torch.testing.assert_close(one, together[0], **CLOSE)


@pytest.mark.usefixtures("exact")
def test_long_answers_have_passes_of_their_own(tokenizer, monkeypatch):
    model, short = tiny_model("llama", torch.float64), requests(5)
    asked = [replace(one, target_new=" ".join([one.target_new] * 30)) if n == 2 else one for n, one in enumerate(short)]
    sizes: list[torch.Size] = []
    with model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    ):
        together = answer_gradients(model, tokenizer, asked, [edit_site(model, 1)])
    assert [len(size) and size[0] for size in sizes] == [4, 1]
    assert together.requests == asked
    for request, rows in zip(asked, together.rows, strict=True):
        (alone,) = answer_gradients(model, tokenizer, [request], [edit_site(model, 1)]).rows
        for name, one in alone.items():
            torch.testing.assert_close(rows[name].keys, one.keys)
            torch.testing.assert_close(rows[name].gradients, one.gradients)
    assert pieces([5, 5, 5]) == [[0, 1, 2]]
    monkeypatch.setattr("lga_lightning.editing.answer_gradients.MOST_TOKENS", 10)
    assert pieces([5, 5, 5, 40]) == [[0, 1], [2], [3]]


@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_one_forward_and_one_backward_pass_serve_all(family_name, tokenizer):
    model, data, passes = tiny_model(family_name), requests(4), []
    method = UltraEdit(warmup=4, modules="all")
    method.prepare(model, tokenizer, [0, 1, 2])
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    deltas = method.compute_each(model, tokenizer, data, [0, 1, 2])
    handle.remove()
    assert len(passes) == 1
    assert all(len(delta.updates) == len(deltas[0].updates) > 6 for delta in deltas)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("family_name", "modules", "names"),
    [
        ("llama", ["gate_proj", "mlp.up_proj"], ["mlp.gate_proj", "mlp.up_proj"]),
        ("gpt2", "attn.c_proj", ["attn.c_proj"]),
        ("gpt2", "c_proj", ["attn.c_proj", "mlp.c_proj"]),
        ("gpt2", "all", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
    ],
)
def test_other_matrices(family_name, modules, names, tokenizer, tmp_path):
    model, data = tiny_model(family_name, torch.float64), requests(4)
    method = UltraEdit(RATE, modules=modules, warmup=0)
    delta = method.compute(model, tokenizer, data, [1, 2])
    block = name_at(model, 1).rsplit(".", 3)[0]
    assert list(delta.updates) == [f"{block}.{layer}.{name}" for layer in (1, 2) for name in names]
    for name in delta.updates:
        keys, gradients = gathered(model, tokenizer, data, name)
        torch.testing.assert_close(delta.matrix(name), update(keys, gradients, keys, gradients), **CLOSE)
    delta.save_pretrained(tmp_path / "a", model)
    again = type(delta).load(tmp_path / "a", model)
    with delta.attached(model):
        edited = model(input_ids=ids()).logits
    with again.applied(model):
        torch.testing.assert_close(model(input_ids=ids()).logits, edited, rtol=1e-5, atol=1e-5)


def test_matrices_that_are_not_there(llama, tokenizer):
    with pytest.raises(ModelError, match=r"Block 1 of .* has no matrix called 'gate'. It has .*mlp.gate_proj"):
        UltraEdit(modules=["up_proj", "gate"]).compute(llama, tokenizer, requests(1), 1)
    with pytest.raises(LayerError):
        matrices_to_edit(llama, 9, "all")


@pytest.mark.usefixtures("exact")
def test_whitening_is_the_inverse_root_of_the_covariance():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    rows = torch.randn(40, 6, generator=generator, dtype=torch.float64) @ mix + 2
    seen = RunningStatistics.of(rows[:9], whole=True) + RunningStatistics.of(rows[9:], whole=True)
    centred = rows - rows.mean(0)
    white = seen.normalise(rows)
    torch.testing.assert_close(white.T @ white / (40 - 6 - 1), torch.eye(6, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    root = torch.linalg.lstsq(centred, white).solution
    torch.testing.assert_close(root, root.T)  # of all inverse roots the symmetric one
    few = RunningStatistics.of(rows[:7], whole=True)
    torch.testing.assert_close(few.normalise(rows), normalised(rows, rows[:7]))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("warmup", [0, 4])
def test_steps_do_not_grow_with_the_edits(warmup, tokenizer, monkeypatch):
    """Without a rate, steps go by the outputs of the unedited matrix, however large edits have made them."""
    monkeypatch.setattr(ultraedit, "STEP", 50.0)
    model, plain = (tiny_model("llama", torch.float64) for _ in range(2))
    keys, _ = gathered(plain, tokenizer, load_requests(limit=warmup or 16).requests, name_at(plain, 1))
    site, data = edit_site(plain, 1), requests(6)
    rate = 50.0 * site.values(keys).norm(dim=1).mean().item() / (site.in_features * site.out_features**0.5)
    given, found = (EditSession(UltraEdit(r, warmup=warmup), model, tokenizer, 1) for r in (rate, None))
    for start in (0, 2, 4):
        for run in (given, found):
            run.edit(data[start : start + 2])
    name = name_at(model, 1)
    torch.testing.assert_close(found.delta.matrix(name), given.delta.matrix(name), **CLOSE)
    with found.delta.applied(model):
        ratio = edit_site(model, 1).values(keys).norm(dim=1).mean() / site.values(keys).norm(dim=1).mean()
    assert ratio > 1.1


def test_a_session_whitens_once_it_has_seen_enough(tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(8)
    plain, white = (EditSession(UltraEdit(RATE, warmup=0, whiten=w), model, tokenizer, 1) for w in (False, True))
    name, counts = name_at(model, 1), []
    for start in range(0, 8, 2):
        for run in (plain, white):
            run.edit(data[start : start + 2])
        counts.append(white.history[name].gradients.count)
        same = torch.allclose(plain.delta.matrix(name), white.delta.matrix(name), rtol=1e-9)
        assert same == (counts[-1] <= 24 + 1)
    assert counts[0] <= 25 < counts[-1]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_the_forecast_is_the_gradient_times_the_update(family_name, tokenizer):
    model, data, method = tiny_model(family_name, torch.float64), requests(3), UltraEdit(RATE, warmup=4)
    method.prepare_forecast(model, tokenizer, range(4))
    found = forecast_rows(model, method, encode_rows(tokenizer, data, [[]] * 3), 3)
    for layer in range(4):
        name = name_at(model, layer)
        for number, delta in enumerate(method.compute_each(model, tokenizer, data, layer)):
            _, slopes = look(model, tokenizer, data[number], [name])
            mean = slopes[name] / len(answer_ids(tokenizer, data[number]))
            gain = -(mean * delta.matrix(name)).sum()
            assert gain.abs() > 1e-8
            torch.testing.assert_close(found.gain[number, layer], gain, rtol=1e-7, atol=1e-12)


def test_a_small_step_lowers_the_loss(tokenizer):
    """A step that is given as its share of the outputs' size makes the new answers likelier."""
    model, data = tiny_model("llama", torch.float64), requests(4)
    delta = UltraEdit(1e-5, warmup=20).compute(model, tokenizer, data, 3)

    def losses():
        found = []
        for request in data:
            prompt, answer = tokenizer(request.prompt)["input_ids"], answer_ids(tokenizer, request)
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            found.append(cross_entropy(logits, torch.tensor(answer)))
        return torch.stack(found)

    before = losses()
    with delta.applied(model):
        assert (losses().mean() - before.mean()) < -1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_runs_and_leaves_the_model_alone(dtype, tokenizer):
    model, data, method = tiny_model("llama", dtype), requests(4), UltraEdit(warmup=4)
    before = weights(model)
    delta = method.compute(model, tokenizer, data, [1, 2])
    assert_same_bits(model, before)
    exact = UltraEdit(warmup=4).compute(tiny_model("llama", dtype).double(), tokenizer, data, [1, 2])
    for name, one in delta.updates.items():
        assert one.a.dtype == one.b.dtype == torch.float32
        error = (one.matrix - exact.matrix(name)).norm() / exact.matrix(name).norm()
        assert error < (0.3 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("mode", SCHEDULES)
def test_every_mode(mode, tokenizer):
    model, data = tiny_model("llama"), requests(4)
    schedule = SCHEDULES[mode](UltraEdit(warmup=4), model, tokenizer, [1], EvaluationConfig(generate=False))
    parts = [schedule.step([0, 1], data[:2]), schedule.step([2, 3], data[2:]), schedule.finish()]
    scored = [part for part in parts if part is not None]
    assert [request for part in scored for request in part.requests] == data
    assert all(delta.updates[name_at(model, 1)].matrix.norm() > 0 for part in scored for delta in part.deltas)


def test_one_token_has_no_spread(llama, tokenizer):
    words = [replace(requests(1)[0], target_new=word) for word in ("in", "is", "R", "t")]
    one = next(request for request in words if len(answer_ids(tokenizer, request)) == 1)
    method = UltraEdit(RATE, warmup=0)
    with pytest.raises(DataError, match=r"one token at model.layers.1.mlp.down_proj. Edit more requests together"):
        method.compute(llama, tokenizer, [one], 1)
    together = SCHEDULES["batch"](method, llama, tokenizer, [1], EvaluationConfig(generate=False))
    together.step([0, 1], [one, requests(2)[1]])
    assert len(together.finish().requests) == 2  # of the first by itself there is no look
    assert together.drift == []
    assert UltraEdit(warmup=2).compute(llama, tokenizer, [one], 1).matrix(name_at(llama, 1)).norm() > 0


@pytest.mark.parametrize("tokens", [7, 40, 150])
def test_the_smaller_of_two_systems_is_solved(tokens, monkeypatch):
    model = tiny_model("llama", torch.float64)
    site, method = edit_site(model, 1), UltraEdit(RATE, ridge=2.0, warmup=0)
    generator, sizes, solve = torch.Generator().manual_seed(0), [], torch.linalg.solve
    keys, gradients = (
        torch.randn(tokens, width, generator=generator, dtype=torch.float64)
        for width in (site.in_features, site.out_features)
    )

    def noted(inner, values):
        sizes.append(len(inner))
        return solve(inner, values)

    monkeypatch.setattr(torch.linalg, "solve", noted)
    rows = AnswerRows(keys, gradients)
    b = method.solve_update(model, site, rows, method._statistics(rows))
    assert sizes == [min(tokens, site.in_features)]
    torch.testing.assert_close(b.T @ keys, update(keys, gradients, keys, gradients, ridge=2.0), **CLOSE)


@pytest.mark.parametrize("setting", [{"learning_rate": 0.0}, {"ridge": 0.0}, {"warmup": -1}, {"modules": []}])
def test_settings_out_of_range(setting):
    with pytest.raises(SettingError, match=f"`{next(iter(setting))}`|`ridge` and `learning_rate`"):
        UltraEdit(**setting)


def test_a_warm_up_of_more_facts_than_there_are(llama, tokenizer):
    with pytest.raises(DataError, match="`warmup` asks for 5000 facts, and bundled facts holds"):
        UltraEdit(warmup=5000).compute(llama, tokenizer, requests(1), 1)


def test_a_warm_up_that_is_interrupted_is_begun_anew(llama, tokenizer, monkeypatch):
    method, passes = UltraEdit(RATE, warmup=2 * ultraedit.WARMUP_BATCH), []

    def interrupted(*args):
        passes.append(args)
        if len(passes) == 2:
            raise KeyboardInterrupt
        return answer_gradients(*args)

    monkeypatch.setattr(ultraedit, "answer_gradients", interrupted)
    with pytest.raises(KeyboardInterrupt):
        method.prepare(llama, tokenizer, [1])
    found = method.compute(llama, tokenizer, requests(2), 1).matrix(name_at(llama, 1))
    expected = UltraEdit(RATE, warmup=method.warmup).compute(llama, tokenizer, requests(2), 1).matrix(name_at(llama, 1))
    assert torch.equal(found, expected)


def test_other_matrices_have_no_forecast(llama, tokenizer):
    with pytest.raises(SettingError, match="EditForecast knows edits of out-projections alone"):
        UltraEdit(modules="all").prepare_forecast(llama, tokenizer, [1])


def test_published_settings(monkeypatch, llama):
    assert UltraEdit().default_layers(llama) == [3]  # round(0.82 * 4)
    assert UltraEdit().settings(llama)["learning_rate"] is None
    monkeypatch.setitem(ULTRAEDIT_LAYERS, ("llama", 4, 40), (1, 2))
    assert UltraEdit().default_layers(llama) == [1, 2]
    assert UltraEdit().settings(llama) == {
        "name": "UltraEdit",
        "learning_rate": 1e-6,
        "ridge": 1.0,
        "modules": "out_projection",
        "warmup": 100,
        "whiten": False,
        "warmup_facts": "bundled facts",
    }
    monkeypatch.setattr("lga_lightning.editing.presets.signature", lambda model: ("qwen2", 28, 18944))
    assert UltraEdit().default_layers(llama) == [*range(8, 15), *range(18, 26)]
    assert UltraEdit().settings(llama)["learning_rate"] == 2e-6
    assert ULTRAEDIT_RATES.keys() < ULTRAEDIT_LAYERS.keys()
    assert UltraEdit(3e-6).settings(llama)["learning_rate"] == 3e-6
