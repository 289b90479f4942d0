"""Forecasts against materialised gradients and updates, one request and one row at a time."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME, AlphaEdit, CrispEdit, LocFT
from lga_lightning.locators.first_order import Ask, encode_rows, forecast_rows
from lga_lightning.models.architecture import blocks
from lga_lightning.models.encoding import subject_last_token
from tests.editing.helpers import curvatures, second_moments
from tests.editing.tuning_by_hand import projection
from tests.helpers.gradients import EXACT, out_projection
from tests.helpers.models import FAMILIES, requests, tiny_model

SEARCH = {"steps": 6, "context_lengths": (3,), "contexts_each": 1}
RATE, CLAMP = 0.5, 4.0


def look(model, tokenizer, prompt: str, answer: str, behind: bool):
    """What is looked at, the share of tokens that are right, and by block the matrix's inputs, outputs and the block's, with gradients.

    ``behind``: how far the answer's first token is behind the most likely one; else the answer's NLL.
    """
    ids = tokenizer(prompt)["input_ids"]
    target = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
    seen: list[dict[str, Tensor]] = [{} for _ in blocks(model)]

    def keep(number: int, name: str):
        def hook(module, args, output):
            value = output[0] if isinstance(output, tuple) else output
            value.retain_grad()
            seen[number][name] = value
            if name == "value":
                seen[number]["input"] = args[0].detach()

        return hook

    model.requires_grad_(True)
    handles = []
    for number, block in enumerate(blocks(model)):
        handles.append(block.register_forward_hook(keep(number, "stream")))
        handles.append(out_projection(block).register_forward_hook(keep(number, "value")))
    logits = model(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1]
    loss = logits[0].max() - logits[0, target[0]] if behind else cross_entropy(logits, torch.tensor(target))
    loss.backward()
    for handle in handles:
        handle.remove()
    for block, found in zip(blocks(model), seen, strict=True):
        weight = out_projection(block).weight.grad
        found["W"] = weight.T.clone() if type(out_projection(block)).__name__ == "Conv1D" else weight.clone()
        found["norm"] = next((c for n, c in block.named_children() if n == "post_feedforward_layernorm"), None)
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    right = (logits.argmax(-1) == torch.tensor(target)).double().mean()
    return loss.detach(), float(right), seen


def flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def search_end(value: Tensor, gradient: Tensor) -> Tensor:
    """Down the gradient, as far as the clamp and the steps of Adam let it."""
    size = min(float(CLAMP * value.norm()), RATE * sqrt(len(value)) * 5 / 2)
    return -size * gradient / gradient.norm() if gradient.norm() else torch.zeros_like(gradient)


def updates(editor, model, seen, subject: int, nll: Tensor, last: int) -> dict[int, Tensor]:
    """dW by block, materialised, of the window that ends at a block."""
    size = editor.window
    first = max(0, last - size + 1)
    end = seen[last]
    if isinstance(editor, FTL | FTM | LocFT | CrispEdit):
        gradient = end["W"]
        if isinstance(editor, CrispEdit):
            gradient = projection(curvatures(model)[last], editor.energy)(gradient)
        entry = editor.rounds * editor.learning_rate
        most = (min(entry, editor.epsilon) if isinstance(editor, FTL | FTM) else entry) * sqrt(gradient.numel())
        length = min(float((nll - editor.stop_loss) / gradient.norm()), most)
        return {last: -length * gradient / gradient.norm()}
    in_stream = isinstance(editor, MEMIT | EMMET | AlphaEdit) and not isinstance(editor, PMET)
    where = "stream" if in_stream else "value"
    change = search_end(flat(end[where])[subject].detach(), flat(end[where].grad)[subject])
    found, rest = {}, 1.0
    for position, layer in enumerate(range(last - size + 1, last + 1)):
        divisor = sqrt(size - position) if isinstance(editor, PMET) else size - position
        share, rest = rest / divisor, rest - rest / divisor
        if layer < first:
            continue
        key = flat(seen[layer]["input"])[subject]
        written = share * change
        if in_stream and seen[layer]["norm"] is not None:
            output = flat(seen[layer]["value"])[subject].detach()
            scale = seen[layer]["norm"](torch.ones_like(output)) / output.square().mean().sqrt()
            written = written * scale / (scale.square() + 1e-6 * scale.square().mean())
        if isinstance(editor, AlphaEdit):
            values, vectors = torch.linalg.eigh(second_moments(model, range(len(blocks(model))))[layer])
            free = vectors[:, values < editor.threshold]
            key = free @ free.T @ key
            direction = key / (editor.l2(model) + key @ key)
        elif editor.covariance.source != "identity":
            solved = torch.linalg.solve(second_moments(model, range(len(blocks(model))))[layer], key)
            direction = solved / (key @ solved)
        elif isinstance(editor, (ROME, EMMET)):
            direction = key / (key @ key)
        else:
            direction = key / (editor._moment_weight + key @ key)
        found[layer] = torch.outer(written, direction)
    return found


def with_moments(editor, model):
    """The editor with a C of its own, other than the identity."""
    editor.covariance._covariances[model] = second_moments(model, range(len(blocks(model))))
    return editor


EDITORS = {
    "R-ROME": lambda: RROME(second_moment="identity", **SEARCH),
    "MEMIT": lambda: MEMIT(window=3, moment_weight=2.0, second_moment="identity", **SEARCH),
    "EMMET": lambda: EMMET(moment_weight=2.0, window=2, second_moment="identity", **SEARCH),
    "PMET": lambda: PMET(window=3, moment_weight=2.0, second_moment="identity", **SEARCH),
    "FT-M": FTM,
    "FT-L": FTL,
    "CrispEdit": lambda: CrispEdit(epochs=2, learning_rate=1e-3, energy=0.6),
    "LocFT-BF": lambda: LocFT(epochs=2, learning_rate=1e-4),
    "ROME": lambda: ROME(second_moment="identity", **SEARCH),
    "R-ROME with C": lambda: RROME(second_moment="sampled", **SEARCH),
    "AlphaEdit": lambda: AlphaEdit(window=2, l2=0.1, second_moment="sampled", **SEARCH),
}


def effect(seen, dW: dict[int, Tensor], saturates: bool) -> float:
    """What updates of several blocks change, block by block: through the norm behind, linear but for saturation in the stream."""
    total = 0.0
    for layer, update in dW.items():
        found = seen[layer]
        outputs, stream = flat(found["value"]).detach(), flat(found["stream"]).detach()
        moved = flat(found["input"]) @ update.T
        if found["norm"] is not None:
            moved = found["norm"](outputs + moved) - found["norm"](outputs)
        for x, d, g in zip(stream, moved, flat(found["stream"].grad), strict=True):
            left = x.norm() / (x.square().sum() + d.square().sum()).sqrt() if saturates else 1
            total += float((g @ d) * left)
    return total


CASES = [(family, name) for family in sorted(FAMILIES) for name in ("R-ROME", "MEMIT")]
CASES += [
    (family, name) for family in ("gemma3_text", "gpt2", "gptj") for name in EDITORS if name not in ("R-ROME", "MEMIT")
]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("family", "name"), CASES)
def test_equals_autograd_in_float64(family, name, tokenizer):
    model, editor, data = tiny_model(family, torch.float64), EDITORS[name](), requests(3)
    if name in ("R-ROME with C", "AlphaEdit"):
        with_moments(editor, model)
    if name == "CrispEdit":
        editor._curvatures[model] = curvatures(model)
    data[1] = replace(data[1], locality={})
    others = [[], [data[0], data[2]], []]
    layers = range(len(blocks(model)))
    expected = []
    for request, instead in zip(data, others, strict=True):
        subject = subject_last_token(tokenizer, request.prompt, request.subject)
        nll, _, own = look(model, tokenizer, request.prompt, request.target_new, False)
        behind, right, _ = look(model, tokenizer, request.prompt, request.target_new, True)
        kept = [probe.prompt for kind in request.locality.values() for probe in kind] or [r.prompt for r in instead]
        rows = [(Ask.REWRITE, (behind, right, own))]
        for ask, prompts in ((Ask.REPHRASE, request.rephrases), (Ask.KEEP, kept)):
            rows += [(ask, look(model, tokenizer, prompt, request.target_new, True)) for prompt in prompts]
        dW = [updates(editor, model, own, subject, nll, last) for last in layers]
        table = [
            [ask, float(loss), right, *(-effect(seen, one, ask != Ask.REWRITE) for one in dW)]
            for ask, (loss, right, seen) in rows
        ]
        expected.append(torch.tensor(table, dtype=torch.float64))
    for size in (1, 2):
        for start in range(0, len(data), size):
            part = slice(start, start + size)
            rows = encode_rows(tokenizer, data[part], others[part])
            found = forecast_rows(model, editor, rows, len(data[part]))
            values = torch.cat([torch.stack([rows.ask, found.behind, found.right], 1), found.gain], 1)
            for number, wanted in enumerate(expected[part]):
                mine = values[rows.owner == number]
                assert ((mine - wanted).abs() <= EXACT * wanted.abs().amax()).all()


def test_a_small_update_changes_what_its_gradient_says(tokenizer, monkeypatch):
    """To first order the forecast is <dL/dW, dW>, gradient and update materialised."""
    model, data = tiny_model("llama", torch.float64), requests(2)
    monkeypatch.setattr(RROME, "search_end", lambda self, model, values, gradients: -1e-7 * gradients.unsqueeze(1))
    editor = RROME(second_moment="identity", **SEARCH)
    rows = encode_rows(tokenizer, data, [[], []])
    found = forecast_rows(model, editor, rows, 2)
    for number, request in enumerate(data):
        subject = subject_last_token(tokenizer, request.prompt, request.subject)
        *_, own = look(model, tokenizer, request.prompt, request.target_new, False)
        for layer, at in enumerate(own):
            key, gradient = flat(at["input"])[subject], flat(at["value"].grad)[subject]
            dW = torch.outer(-1e-7 * gradient, key / (key @ key))
            assert float(found.gain[number, layer]) == pytest.approx(-float((at["W"] * dW).sum()), rel=1e-6, abs=1e-18)
