"""Running only what follows the subject gives what the whole rows give."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import EncodedAnswers, encode_answers
from lga_lightning.models.hooks import added_to_output
from lga_lightning.models.likelihood import answer_logits
from tests.helpers.models import VOCABULARY, requests, tiny_model

EXACT = {"rtol": 0, "atol": 1e-9}


def batch_of(rows: list[tuple[int, int, int]]) -> EncodedAnswers:
    """Random rows, each of (index of the subject's last token, prompt tokens, answer tokens)."""
    generator = torch.Generator().manual_seed(0)
    length, width = max(p + a for _, p, a in rows), max(a for _, _, a in rows)
    ids, positions = torch.zeros(len(rows), length).long(), torch.zeros(len(rows), width).long()
    labels = torch.full((len(rows), width), -100)
    for row, (_, p, a) in enumerate(rows):
        ids[row, : p + a] = torch.randint(3, VOCABULARY, (p + a,), generator=generator)
        positions[row, :a] = torch.arange(p - 1, p + a - 1)
        labels[row, :a] = ids[row, p : p + a]
    return EncodedAnswers(ids, positions, labels, torch.tensor([s for s, _, _ in rows]))


def answered(logits: torch.Tensor, batch: EncodedAnswers) -> torch.Tensor:
    return logits[batch.labels != -100]


BATCHES = {
    "here and there": [(4, 7, 2), (1, 9, 3), (6, 7, 1), (3, 4, 4)],
    "also at the start": [(0, 5, 2), (3, 6, 1), (0, 1, 3)],
    "all at the start": [(0, 5, 2), (0, 1, 3)],
    "far behind": [(13, 14, 2), (11, 18, 2), (2, 4, 1)],  # beyond gemma's sliding window of 8
    "one row": [(5, 8, 3)],
}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", BATCHES)
def test_equals_the_whole_rows(family, name):
    model, batch = tiny_model(family, torch.float64), batch_of(BATCHES[name])
    expected = answered(answer_logits(model, batch), batch)
    suffix = CachedSuffix(model, batch)
    with torch.no_grad():
        first, second = suffix.logits(), suffix.logits()
    torch.testing.assert_close(answered(first, batch), expected, **EXACT)
    assert torch.equal(first, second)  # the cache has not grown


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["here and there", "also at the start", "far behind"])
def test_some_of_the_rows(family, name):
    model, batch = tiny_model(family, torch.float64), batch_of(BATCHES[name])
    suffix = CachedSuffix(model, batch)
    everything = suffix.logits()
    for rows in ([1], [2, 0], [0, 1, 2]):
        chosen = suffix.select(torch.tensor(rows))
        torch.testing.assert_close(chosen.logits(), everything[rows], **EXACT)
        assert torch.equal(chosen.batch.labels, batch.labels[rows])
        last = max(s + a for s, a in ((p - subject, a) for subject, p, a in (BATCHES[name][row] for row in rows)))
        assert chosen.batch.input_ids.shape[1] <= max(last, 2)  # nothing of longer rows
        again = chosen.select(torch.tensor([0]))
        torch.testing.assert_close(again.logits(), everything[rows[:1]], **EXACT)
    assert torch.equal(suffix.logits(), everything)  # selecting left it as it was


@pytest.mark.usefixtures("exact")
def test_blocks_that_take_keys_of_others():
    """Such blocks cannot do without those below, which run in every pass, and none of which is run beforehand."""
    model, batch = tiny_model("gemma4_text", torch.float64), batch_of(BATCHES["here and there"])
    suffix = CachedSuffix(model, batch, layer=3)
    suffix.run_below(2)
    expected = answered(answer_logits(model, batch), batch)
    for _ in range(2):
        torch.testing.assert_close(answered(suffix.logits(), batch), expected, **EXACT)


@pytest.mark.usefixtures("exact")
def test_requests(family, tokenizer):
    model, data = tiny_model(family, torch.float64), requests()
    prompts, answers, ends = zip(*((r.prompt, r.target_new, r.subject_end) for r in data), strict=True)
    batch = encode_answers(tokenizer, prompts, answers, ends)
    suffix = CachedSuffix(model, batch)
    torch.testing.assert_close(answered(suffix.logits(), batch), answered(answer_logits(model, batch), batch), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_are_finite_and_close(family, dtype):
    model, batch = tiny_model(family, dtype), batch_of(BATCHES["also at the start"])
    logits = answered(CachedSuffix(model, batch).logits(), batch)
    assert logits.dtype == torch.float32
    close = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(logits, answered(answer_logits(model, batch), batch), rtol=close, atol=close)


def test_the_first_token_left_is_the_subjects_last(llama):
    batch = batch_of(BATCHES["here and there"])
    left = CachedSuffix(llama, batch).batch
    rows = torch.arange(len(batch))
    assert torch.equal(left.input_ids[:, 0], batch.input_ids[rows, batch.subject])
    assert not left.subject.any()


@pytest.mark.usefixtures("exact")
def test_gradients_reach_an_addition_at_the_subject(family):
    from lga_lightning.models.architecture import edit_site
    from lga_lightning.models.hooks import added_to_output

    model, batch = tiny_model(family, torch.float64), batch_of(BATCHES["also at the start"])
    module, rows = edit_site(model, 1).module, len(batch)

    def gradient(run, subject):
        delta = torch.zeros(rows, 24, dtype=torch.float64, requires_grad=True)

        def addition(keys):
            at = torch.zeros(*keys.shape[:2], 1, dtype=torch.float64)
            at[torch.arange(rows), subject] = 1
            return at * delta.unsqueeze(1)

        with added_to_output(module, addition, rows=rows):
            loss = answered(run(), batch).logsumexp(-1).sum()
        return torch.autograd.grad(loss, delta)[0]

    suffix = CachedSuffix(model, batch)
    expected = gradient(lambda: answer_logits(model, batch), batch.subject)
    torch.testing.assert_close(gradient(suffix.logits, suffix.batch.subject), expected, **EXACT)


@pytest.mark.usefixtures("exact")
def test_rows_as_long_as_the_model_takes(family):
    # 64 tokens are all that the tiny models with learned positions have
    model, batch = tiny_model(family, torch.float64), batch_of([(0, 3, 2), (50, 60, 4)])
    expected = answered(answer_logits(model, batch), batch)
    torch.testing.assert_close(answered(CachedSuffix(model, batch).logits(), batch), expected, **EXACT)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_blocks_below_a_change_run_once(family, layer):
    model, batch = tiny_model(family, torch.float64), batch_of(BATCHES["here and there"])
    place = edit_site(model, layer).module

    def passes(ask, at, rows):
        """Logits without a change, with one at the subject's last token, and without it again."""
        found = [ask()]
        for size in (1.0, 0.0):
            change = torch.zeros(len(batch), rows, 24, dtype=torch.float64)
            change[torch.arange(len(batch)), at] = size * torch.arange(24.0).double().sin()  # norms drop a constant
            with added_to_output(place, lambda inputs, change=change: change, rows=len(batch)):
                found.append(ask())
        return [answered(logits, batch) for logits in found]

    with torch.no_grad():
        suffix = CachedSuffix(model, batch, layer)
        mine = passes(suffix.logits, 0, suffix.batch.input_ids.shape[1])
        whole = passes(lambda: answer_logits(model, batch), batch.subject, batch.input_ids.shape[1])
    for a, b in zip(mine, whole, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    assert (mine[1] - mine[0]).abs().max() > 1e-3
    assert not any("forward" in module.__dict__ for module in model.modules())
    computed = []
    inner = next(
        module
        for module in blocks(model)[0].modules()
        if isinstance(module, torch.nn.LayerNorm) or "Norm" in type(module).__name__
    )
    handle = inner.register_forward_pre_hook(lambda module, args: computed.append(module))
    with torch.no_grad():
        suffix.logits()
    handle.remove()
    assert bool(computed) == (layer == 0)
