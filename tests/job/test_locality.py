"""Requests without locality probes are asked about bundled facts that the model knows."""

from __future__ import annotations

from dataclasses import replace

from lga_lightning.data.loading import load_requests
from lga_lightning.job.locality import KIND, with_bundled_locality
from tests.helpers.models import requests


def test_bare_requests_get_bundled_facts_that_no_request_touches(llama, tokenizer, monkeypatch):
    monkeypatch.setattr("lga_lightning.job.locality.first_known", lambda *given: given[2][: given[3]])
    asked = [requests(1)[0], *(replace(request, locality={}) for request in requests(3)[1:])]
    filled = with_bundled_locality(llama, tokenizer, asked)
    assert filled[0] is asked[0]
    facts = {fact.prompt: fact for fact in load_requests(split="test").requests}
    for before, after in zip(asked[1:], filled[1:], strict=True):
        probes = after.locality[KIND]
        assert len(probes) == 8
        assert all(facts[probe.prompt].target_old == probe.answers[0] for probe in probes)
        assert not {facts[probe.prompt].subject for probe in probes} & {request.subject for request in asked}
        assert replace(after, locality={}) == before
    assert set(filled[1].locality[KIND]).isdisjoint(filled[2].locality[KIND])


def test_a_model_that_knows_nothing_is_asked_nothing(llama, tokenizer):
    bare = [replace(requests(1)[0], locality={})]
    assert with_bundled_locality(llama, tokenizer, bare) == bare
