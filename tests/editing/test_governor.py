"""The limits of a governor, and what counts as passing them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lga_lightning.editing import RROME, AlphaEdit
from lga_lightning.editing.governor import Governor, Look
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import DataError, SettingError
from tests.editing.helpers import method_for, name_at
from tests.helpers.models import requests, tiny_model

ALL_LIMITS = Governor(perplexity_ratio=1.2, locality=0.6, relative_norm=0.3)


def test_limits_may_be_reached():
    assert ALL_LIMITS.passed(Look(3, 1.2, 0.6, 0.3)) == []
    assert ALL_LIMITS.passed(Look(3)) == []
    assert Governor(locality=0.6).passed(Look(3, 99.0, 0.7, 99.0)) == []


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (Look(3, 1.21, 0.6, 0.3), ["perplexity on plain text is 1.21 times that of the unedited model (limit 1.2)"]),
        (Look(3, math.inf), ["perplexity on plain text is inf times that of the unedited model (limit 1.2)"]),
        (Look(3, math.nan), ["perplexity on plain text is nan times that of the unedited model (limit 1.2)"]),
        (Look(3, locality=0.59), ["locality of the facts edited so far is 0.59 (limit 0.6)"]),
        (Look(3, relative_norm=math.nan), ["the change of a block's weights is nan of their norm (limit 0.3)"]),
        (
            Look(3, 1.0, 0.5, 0.31),
            [
                "locality of the facts edited so far is 0.5 (limit 0.6)",
                "the change of a block's weights is 0.31 of their norm (limit 0.3)",
            ],
        ),
    ],
)
def test_limits_that_are_passed(look, said):
    assert ALL_LIMITS.passed(look) == said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no limit to watch"),
        ({"every": 3}, "no limit to watch"),
        ({"perplexity_ratio": 1.0}, "`perplexity_ratio` .* above 1, got 1.0"),
        ({"perplexity_ratio": math.inf}, "`perplexity_ratio` .* got inf"),
        ({"locality": 1.5}, "`locality` is a share, .* got 1.5"),
        ({"locality": 0.0}, "`locality` is a share, .* got 0.0"),
        ({"relative_norm": -1.0}, "`relative_norm` .* got -1.0"),
        ({"locality": 0.5, "every": 0}, "`every` must be at least 1"),
        ({"locality": 0.5, "facts": 0}, "`facts` must be at least 1"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(SettingError, match=said):
        Governor(**settings)


def test_locality_needs_probes():
    without = [replace(request, locality={}) for request in requests(3)]
    Governor(relative_norm=0.5).check_requests(without)
    Governor(locality=0.5).check_requests([*without, *requests(8)])
    with pytest.raises(DataError, match="none of the requests has a locality probe"):
        Governor(locality=0.5).check_requests(without)


def test_results_name_the_limits_that_there_are():
    assert Governor(locality=0.5, every=2).settings() == {"locality": 0.5, "every": 2, "facts": 50}
    assert Look(4, relative_norm=0.1).to_dict() == {"edits": 4, "relative_norm": 0.1}


@pytest.mark.parametrize("kind", [RROME, AlphaEdit])
def test_a_session_goes_back_to_what_it_was(kind, tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(6)
    method, name = method_for(kind, model), name_at(model, 1)
    session, straight = (EditSession(method, model, tokenizer, 1) for _ in range(2))
    session.edit(data[:2])
    kept = session.state()
    before = session.delta.matrix(name).clone()
    session.edit(data[2:4])
    assert not torch.equal(session.delta.matrix(name), before)
    session.restore(kept)
    assert session.requests == data[:2]
    assert torch.equal(session.delta.matrix(name), before)
    for group in (data[:2], data[4:]):
        straight.edit(group)
    session.edit(data[4:])
    assert session.requests == straight.requests
    torch.testing.assert_close(session.delta.matrix(name), straight.delta.matrix(name))
    assert (session.history is None) == (kind is RROME)
