"""Looks at a session against plain passes through an edited copy, and a plain loop that stops where they say."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from lga_lightning.editing.governor import Governor, Look
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation import session_watch
from lga_lightning.evaluation.general import plain_passages
from lga_lightning.evaluation.session_watch import SessionWatch
from lga_lightning.exceptions import SettingError
from tests.helpers.growing import Growing
from tests.helpers.models import requests, tiny_model

TEXTS = ("The capital of France is Paris", "Rome is in Italy, the mother tongue of France", "is it")
LAYERS = [1, 2]


def loss(model, tokenizer) -> float:
    """Mean over the texts of their mean NLL a token."""
    found = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        found.append(-logits.gather(1, ids[0, 1:, None]).mean())
    return torch.stack(found).mean().item()


def answers(model, tokenizer, prompt: str, answer: str) -> torch.Tensor:
    """The most likely token at each token of an answer."""
    before, after = tokenizer(prompt)["input_ids"], tokenizer(" " + answer.strip())["input_ids"]
    logits = model(input_ids=torch.tensor([before + after])).logits[0]
    return logits[len(before) - 1 : -1].argmax(-1)


def plain_look(model, tokenizer, session) -> Look:
    """The same by whole passes, one by one."""
    edited = copy.deepcopy(model)
    session.delta.merge_(edited)
    kept = []
    for request in session.requests:
        kinds = []
        for probes in request.locality.values():
            pairs = [[answers(m, tokenizer, p.prompt, p.answers[0]) for m in (model, edited)] for p in probes]
            kinds.append(torch.tensor([(one == other).double().mean() for one, other in pairs]).mean())
        kept += [torch.stack(kinds).mean()] if kinds else []
    norms = []
    for layer in LAYERS:
        old, new = (m.model.layers[layer].mlp.down_proj.weight for m in (model, edited))
        norms.append((new - old).norm() / old.norm())
    ratio = math.exp(loss(edited, tokenizer) - loss(model, tokenizer))
    return Look(len(session.requests), ratio, torch.stack(kept).mean().item() if kept else None, max(norms).item())


def session_on(model, tokenizer, step: float = 0.1) -> EditSession:
    return EditSession(Growing(step), model, tokenizer, LAYERS)


@pytest.mark.usefixtures("exact")
def test_a_look_is_what_plain_passes_say(tokenizer):
    model = tiny_model("llama", torch.float64)
    session = session_on(model, tokenizer, step=0.4)
    watch = SessionWatch(Governor(9.0, 0.1, 9.0), model, tokenizer, TEXTS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values = []
    for group in (requests(8)[:2], requests(8)[2:5], requests(8)[5:]):
        session.edit(group)
        found, plain = watch.look(session), plain_look(model, tokenizer, session)
        assert found.edits == plain.edits
        assert found.perplexity_ratio == pytest.approx(plain.perplexity_ratio, rel=1e-8)
        assert found.locality == pytest.approx(plain.locality, rel=1e-6)
        assert found.relative_norm == pytest.approx(plain.relative_norm, rel=1e-6)
        values.append(found)
    assert values[0].locality < 1
    assert values[0].perplexity_ratio != pytest.approx(1, abs=1e-3)
    assert [look.relative_norm for look in values] == pytest.approx([0.8, 2.0, 3.2])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_has_no_limit_is_not_looked_at(llama, tokenizer):
    session = session_on(llama, tokenizer)
    session.edit(requests(2))
    assert SessionWatch(Governor(relative_norm=1.0), llama, tokenizer).look(session) == Look(
        2, relative_norm=pytest.approx(0.2, rel=1e-5)
    )
    look = SessionWatch(Governor(perplexity_ratio=2.0), llama, tokenizer).look(session)
    assert (look.locality, look.relative_norm) == (None, None)
    assert look.perplexity_ratio > 0


def test_a_change_that_is_no_number_has_passed_its_limit(llama, tokenizer):
    session = session_on(llama, tokenizer)
    session.edit(requests(2))
    session.relative_norms = lambda: {1: 0.1, 2: math.nan}
    governor = Governor(relative_norm=1.0)
    look = SessionWatch(governor, llama, tokenizer).look(session)
    assert math.isnan(look.relative_norm)
    assert governor.passed(look) == ["the change of a block's weights is nan of their norm (limit 1)"]


def test_of_several_processes_the_first_decides(llama, tokenizer, monkeypatch):
    watch, session = SessionWatch(Governor(relative_norm=0.55, every=1), llama, tokenizer), session_on(llama, tokenizer)
    found = iter([0.1, 0.9])
    monkeypatch.setattr(
        session_watch, "gathered", lambda look, device: [replace(look, relative_norm=next(found)), look]
    )
    session.edit(requests(1))
    assert watch.after_group(session) is None
    session.edit(requests(2)[1:])
    assert "is 0.9 of their norm" in watch.after_group(session).reason
    assert session.requests == requests(1)


@pytest.mark.parametrize("every", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("limits", "kept_groups"),
    [
        ({"relative_norm": 0.55}, 5),
        ({"relative_norm": 100.0, "perplexity_ratio": 1e9}, 8),
        ({"relative_norm": 0.25, "locality": 0.001}, 2),
    ],
)
def test_it_stops_where_a_plain_loop_does(every, limits, kept_groups, llama, tokenizer):
    data = requests(8)
    governor = Governor(**limits, every=every)
    session = session_on(llama, tokenizer)
    watch = SessionWatch(governor, llama, tokenizer, TEXTS)
    for request in data:
        session.edit([request])
        if watch.after_group(session) is not None:
            break
    stop = watch.finish(session)
    # of 8 groups, each adds 0.1 to the relative norm; those that are looked at
    looked = sorted({1, *(n for n in range(1, 9) if n % every == 0), 8})
    good = [n for n in looked if n <= kept_groups]
    bad = next((n for n in looked if n > kept_groups), None)
    assert [look.edits for look in watch.looks] == good + ([] if bad is None else [bad])
    assert session.requests == data[: good[-1]]
    expected = Growing().delta(llama, LAYERS, good[-1])
    for name in expected.updates:
        torch.testing.assert_close(session.delta.matrix(name), expected.matrix(name))
    if bad is None:
        assert stop is None
        assert watch.report()["stopped"] is None
    else:
        assert (stop.made, stop.edits) == (bad, good[-1])
        assert f"(limit {limits['relative_norm']:g})" in stop.reason
        assert watch.report(3)["stopped"] == {"reason": stop.reason, "made": bad, "edits": good[-1], "left_out": 3}


@pytest.mark.parametrize("what", ["perplexity_ratio", "locality"])
def test_each_limit_stops_a_run(what, llama, tokenizer):
    data, measured = requests(8), []
    free = session_on(llama, tokenizer, step=0.5)
    everything = SessionWatch(Governor(1e9, 1e-9, 1e9), llama, tokenizer, TEXTS)
    for request in data:
        free.edit([request])
        measured.append(getattr(everything.look(free), what))
    known = [value for value in measured if value is not None]
    first = known[0]
    worst = max(known) if what == "perplexity_ratio" else min(known)
    limit = (first + worst) / 2
    assert worst != first
    passes = [
        value is not None and (value > limit if what == "perplexity_ratio" else value < limit) for value in measured
    ]
    session = session_on(llama, tokenizer, step=0.5)
    watch = SessionWatch(Governor(**{what: limit}, every=1), llama, tokenizer, TEXTS)
    for request in data:
        session.edit([request])
        if watch.after_group(session):
            break
    assert len(session.requests) == passes.index(True)
    assert watch.stop.reason.startswith(
        {"perplexity_ratio": "perplexity on plain text", "locality": "locality of"}[what]
    )


def test_a_sample_of_the_facts_is_asked(llama, tokenizer, monkeypatch):
    asked = []

    def count(model, tokenizer, requests, deltas, config):
        asked.append([request.prompt for request in requests])
        return evaluate(model, tokenizer, requests, deltas, config)

    evaluate = session_watch.evaluate
    monkeypatch.setattr(session_watch, "evaluate", count)
    session = session_on(llama, tokenizer)
    session.edit(requests(8))
    with_probes = [request.prompt for request in requests(8) if any(request.locality.values())]
    for facts in (1, 2, 50):
        watch = SessionWatch(Governor(locality=0.01, facts=facts), llama, tokenizer)
        assert watch.look(session) == watch.look(session)
    assert [len(prompts) for prompts in asked] == [1, 1, 2, 2, len(with_probes), len(with_probes)]
    assert all(set(prompts) <= set(with_probes) for prompts in asked)


def test_nothing_to_keep_is_an_error(llama, tokenizer):
    session = session_on(llama, tokenizer)
    watch = SessionWatch(Governor(relative_norm=0.15), llama, tokenizer)
    session.edit(requests(2))
    with pytest.raises(
        SettingError, match=r"first group of 2 edits alone passes a limit .* 0.2 of their norm \(limit 0.15\)"
    ):
        watch.after_group(session)


def test_plain_text_of_its_own(llama, tokenizer):
    assert len(plain_passages()) == len(set(plain_passages())) >= 5
    assert all(20 <= len(passage.split()) <= 90 for passage in plain_passages())
    watch = SessionWatch(Governor(perplexity_ratio=2.0), llama, tokenizer)
    assert watch.passages == list(plain_passages())
    assert watch.report()["text"] == "the package's own"
    assert SessionWatch(Governor(perplexity_ratio=2.0), llama, tokenizer, TEXTS * 50).passages == list(TEXTS * 50)[:32]
    assert "text" not in SessionWatch(Governor(locality=0.5), llama, tokenizer).report()
