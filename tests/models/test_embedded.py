"""On the real model: exactness in float32, an edit that works, and nothing left behind."""

from __future__ import annotations

import hashlib

import pytest
import torch
from transformers import PreTrainedModel

from lga_lightning.data import load_requests
from lga_lightning.editing import RROME, attached
from lga_lightning.locators import LGA
from lga_lightning.models.encoding import encode_answers
from lga_lightning.models.generation import greedy_answers
from lga_lightning.models.likelihood import answer_logits
from lga_lightning.models.loading import EMBEDDED_NAME, load_model
from tests.helpers.edits import token_scores
from tests.helpers.gradients import reference, relative_error


@pytest.fixture(scope="module")
def embedded(embedded_package) -> tuple:
    return load_model(EMBEDDED_NAME)


def fingerprint(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.timeout(600)
def test_scores_equal_autograd(embedded):
    """Of two scopes: plain autograd in float64 takes a minute for each; tiny models have all of them."""
    # float32 against float64: plain autograd in float32 is itself 3e-4 off (see lga_lightning.models.likelihood)
    model, tokenizer = embedded
    data = load_requests(split="proxy", limit=2).requests
    in_float32 = {
        scope: LGA(scope, statistic="dot").score(model, tokenizer, data).values.double() for scope in ("mlp", "value")
    }
    try:
        model.double()
        for scope, values in in_float32.items():
            expected = torch.stack([reference(model, tokenizer, request, scope) for request in data[:1]])
            assert relative_error(values[:1], expected) < 1e-4
    finally:
        model.float()


def test_edits_work_and_hooks_equal_merged_weights(embedded):
    model, tokenizer = embedded
    data = load_requests(split="proxy", limit=3).requests
    before = fingerprint(model)
    editor = RROME(steps=15, contexts_each=1, context_lengths=(5,), second_moment="identity")
    deltas = editor.compute_each(model, tokenizer, data, 3)
    before_edit, after_edit = token_scores(model, tokenizer, data, deltas)["rewrite"].mean(0)
    assert before_edit < 0.5
    assert after_edit == 1
    assert fingerprint(model) == before
    batch = encode_answers(tokenizer, [request.prompt for request in data], [request.target_new for request in data])
    with attached(model, deltas, torch.arange(len(data))):
        by_hook = answer_logits(model, batch)
    for row, (request, delta) in enumerate(zip(data, deltas, strict=True)):
        with delta.applied(model):
            torch.testing.assert_close(answer_logits(model, batch)[row], by_hook[row], rtol=1e-4, atol=1e-3)
            (said,) = greedy_answers(model, tokenizer, [request.prompt], max_new_tokens=12)
        assert said.startswith(request.target_new)
    assert fingerprint(model) == before
