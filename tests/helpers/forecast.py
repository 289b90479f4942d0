"""Forecasts from materialised gradients and updates, one request and one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, PMET, ROME, AlphaEdit, CrispEdit, EditMethod, LocFT
from lga_lightning.locators.first_order import Ask
from lga_lightning.models.architecture import blocks
from tests.editing.helpers import curvatures, second_moments
from tests.editing.tuning_by_hand import projection
from tests.helpers.gradients import out_projection
from tests.helpers.tokenizers import subject_last_token

RATE, CLAMP = 0.5, 4.0
NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_norm", "post_norm2")
SCALES = ("residual_multiplier", "residual_scale", "feed_forward.down_multiplier")
GATE = "mlp.shared_expert_gate"


def look(model, tokenizer, prompt: str, answer: str, behind: bool):
    """What is looked at, which tokens are right, and by block the matrix's inputs, outputs and the block's, with gradients.

    ``behind``: how far the answer's first token is behind the most likely one; else the answer's NLL.
    """
    ids = tokenizer(prompt)["input_ids"]
    target = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
    seen: list[dict[str, Tensor]] = [{} for _ in blocks(model)]

    def keep(number: int, name: str):
        def hook(module, args, output):
            value = output[0] if isinstance(output, tuple | list) else output
            value.retain_grad()
            seen[number][name] = value
            if name == "normed":
                seen[number]["entering"] = args[0].detach()
            if name == "value":
                seen[number]["input"] = args[0].detach()
                return value.clone()  # some families add to it in place
            return None

        return hook

    model.requires_grad_(True)
    handles = []
    for number, block in enumerate(blocks(model)):
        handles.append(block.register_forward_hook(keep(number, "stream")))
        handles.append(out_projection(block).register_forward_hook(keep(number, "value")))
        if (norm := next((c for n, c in block.named_children() if n in NORMS), None)) is not None:
            handles.append(norm.register_forward_hook(keep(number, "normed")))
        if GATE in dict(block.named_modules()):
            handles.append(block.get_submodule(GATE).register_forward_hook(keep(number, "gate")))
    logits = model(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1]
    loss = logits[0].max() - logits[0, target[0]] if behind else cross_entropy(logits, torch.tensor(target))
    loss.backward()
    for handle in handles:
        handle.remove()
    for block, found in zip(blocks(model), seen, strict=True):
        weight = out_projection(block).weight.grad
        found["W"] = weight.T.clone() if type(out_projection(block)).__name__ == "Conv1D" else weight.clone()
        found["norm"] = next((c for n, c in block.named_children() if n in NORMS), None)
        scale = next((value for name in SCALES if (value := attribute(block, name)) is not None), 1.0)
        gate = (
            flat(found["gate"]).detach().sigmoid() if "gate" in found else torch.ones_like(flat(found["input"])[:, :1])
        )
        found["scale"] = scale * gate
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    right = (logits.argmax(-1) == torch.tensor(target)).double()
    return loss.detach(), right, seen


def attribute(module, name: str) -> float | None:
    """An attribute of a module or of one within it, by its dotted name; None if there is none."""
    return reduce(lambda owner, part: getattr(owner, part, None), name.split("."), module)


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
        found = {}
        for layer in range(first, last + 1):
            gradient = seen[layer]["W"]
            if isinstance(editor, CrispEdit):
                gradient = projection(curvatures(model)[layer], editor.energy)(gradient)
            entry = editor.rounds * editor.learning_rate / 2
            entry = min(entry, editor.epsilon) if isinstance(editor, FTL | FTM) else entry
            gain = min(float((nll - editor.stop_loss) / (last + 1 - first)), float(entry * gradient.abs().sum()))
            found[layer] = -gain * gradient / gradient.square().sum()
        return found
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
        if in_stream:
            written = written / seen[layer]["scale"][subject]
        if in_stream and seen[layer]["norm"] is not None:
            output = flat(seen[layer]["entering"])[subject]
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


def effect(seen, dW: dict[int, Tensor], saturates: bool) -> float:
    """What updates of several blocks change, block by block: through the norm behind, linear but for saturation in the stream."""
    total = 0.0
    for layer, update in dW.items():
        found = seen[layer]
        stream = flat(found["stream"]).detach()
        moved = flat(found["input"]) @ update.T
        if found["norm"] is not None:
            outputs = flat(found["entering"])
            moved = found["norm"](outputs + moved) - found["norm"](outputs)
        entering = (
            found["value"] if found["norm"] is None else found["normed"]
        )  # what is added to the stream, but for a scale
        for x, d, g, scale in zip(stream, moved, flat(entering.grad), found["scale"], strict=True):
            left = x.norm() / (x.square().sum() + (scale * d).square().sum()).sqrt() if saturates else 1
            total += float((g @ d) * left)
    return total


def forecast_by_hand(
    model: PreTrainedModel,
    editor: EditMethod,
    tokenizer: PreTrainedTokenizerBase,
    request: EditRequest,
    instead: Sequence[EditRequest] = (),
) -> Tensor:
    """[N, 3 + L] of each row of a request: what it asks, how far the new answer is behind, the share that is right, gains by layer.

    ``instead``: the facts that take the place of locality probes.
    """
    subject = subject_last_token(tokenizer, request.prompt, request.subject)
    nll, _, own = look(model, tokenizer, request.prompt, request.target_new, False)
    behind, right, _ = look(model, tokenizer, request.prompt, request.target_new, True)
    kept = [probe.prompt for kind in request.locality.values() for probe in kind] or [r.prompt for r in instead]
    rows = [(Ask.REWRITE, (behind, right, own))]
    for ask, prompts in ((Ask.REPHRASE, request.rephrases), (Ask.KEEP, kept)):
        rows += [(ask, look(model, tokenizer, prompt, request.target_new, True)) for prompt in prompts]
    dW = [updates(editor, model, own, subject, nll, last) for last in range(len(blocks(model)))]
    table = [
        [
            ask,
            float(loss),
            float((right[:1] if ask is Ask.KEEP else right).mean()),
            *(-effect(seen, one, ask != Ask.REWRITE) for one in dW),
        ]
        for ask, (loss, right, seen) in rows
    ]
    return torch.tensor(table, dtype=torch.float64)
