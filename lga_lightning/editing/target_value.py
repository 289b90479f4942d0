"""The value that makes the model say the new answer: found for many requests at once.

ROME (arXiv 2202.05262), section 3.1, step 2, eq. 4, as in its public code: gradient descent on a vector delta that is
added to the output of the edited module at the subject's last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from lga_lightning.attribution import at_least_float32
from lga_lightning.continuation import Continuation
from lga_lightning.encoding import EncodedAnswers, encode_answers, encode_subjects
from lga_lightning.errors import SettingError
from lga_lightning.families import EditSite
from lga_lightning.hooks import added_to_output, captured_inputs, frozen
from lga_lightning.requests import EditRequest
from lga_lightning.scoring import answer_nll, input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TargetValueSettings:
    """How the target value is sought.

    Attributes:
        steps: Evaluations of the loss; there is one update less, as in ROME's code.
        learning_rate: Of Adam.
        weight_decay: Weight of |delta| / |h0|^2, h0 the value before the edit.
        clamp: delta is kept within this many times |h0|.
        kl_factor: Weight of the divergence from the unedited model on "{subject} is a".
        stop_loss: A request is done when its loss is below this.
    """

    steps: int = 25
    learning_rate: float = 0.5
    weight_decay: float = 1e-3
    clamp: float = 4.0
    kl_factor: float = 0.0625
    stop_loss: float = 0.05

    def __post_init__(self) -> None:
        for f in fields(self):
            if not getattr(self, f.name) >= (1 if f.name == "steps" else 0):
                raise SettingError(
                    f"`{f.name}` must be at least {1 if f.name == 'steps' else 0}, got {getattr(self, f.name)}."
                )


@dataclass(frozen=True)
class TargetValues:
    """What the search found for N requests in K contexts.

    Attributes:
        keys: [N, K, d_in] inputs of the edited module at the subject's last token, the bare prompt's first.
        before: [N, d_out] its outputs there on the bare prompt, h0.
        delta: [N, d_out] what to add to them: v* = h0 + delta.
        loss: [N] the last loss.
    """

    keys: Tensor
    before: Tensor
    delta: Tensor
    loss: Tensor


def find_target_values(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    site: EditSite,
    settings: TargetValueSettings,
) -> TargetValues:
    """Find the target values of N requests in one batch; a request that has converged leaves it.

    The loss of a request: the mean over contexts of the new answer's NLL, plus ``kl_factor`` times
    KL(edited || unedited) after the subject in "{subject} is a", plus ``weight_decay`` |delta| / |h0|^2.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        contexts: K texts to put before the prompt, "" the first.
        site: The module to whose output delta is added.
        settings: How to search.
    """
    device = input_device(model)
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        answers = Continuation(model, _in_contexts(tokenizer, requests, contexts).to(device))
        subjects = Continuation(model, _about_subjects(tokenizer, requests).to(device))
        with torch.no_grad():
            with captured_inputs([site.module], answers.batch.subject) as captured:
                answers.logits()
            keys = at_least_float32(captured[0]).unflatten(0, (len(requests), len(contexts)))
            before = site.values(keys[:, 0])
            original = subjects.logits()[:, 0].log_softmax(-1)
        delta, loss = _descend(answers, subjects, original, before, len(contexts), site, settings)
    return TargetValues(keys, before, delta, loss)


def _descend(
    answers: Continuation,
    subjects: Continuation,
    original: Tensor,
    before: Tensor,
    contexts: int,
    site: EditSite,
    settings: TargetValueSettings,
) -> tuple[Tensor, Tensor]:
    """Adam on all deltas at once, projected to the clamp after each step. Returns delta [N, d_out] and loss [N]."""
    norm = before.norm(dim=1)
    delta, moment, square = (torch.zeros_like(before) for _ in range(3))
    losses = torch.full_like(norm, torch.inf)
    active = torch.arange(len(before), device=before.device)
    for step in range(1, max(settings.steps, 2)):
        leaf = delta[active].requires_grad_()
        nll = answer_nll(_logits_with(answers, site, leaf.repeat_interleave(contexts, 0)), answers.batch.labels)
        edited = _logits_with(subjects, site, leaf)[:, 0].log_softmax(-1)
        divergence = (edited.exp() * (edited - original)).sum(-1)
        loss = nll.unflatten(0, (-1, contexts)).mean(1) + settings.kl_factor * divergence
        # at delta = 0 the gradient of this norm is 0
        loss = loss + settings.weight_decay * torch.linalg.vector_norm(leaf, dim=1) / norm[active] ** 2
        losses[active] = loss.detach().to(losses.dtype)
        going = (loss.detach() >= settings.stop_loss).nonzero().squeeze(1)
        if not len(going):
            break
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if len(going) < len(active):
            active, gradient, original = active[going], gradient[going], original[going]
            rows = (going.unsqueeze(1) * contexts + torch.arange(contexts, device=going.device)).flatten()
            answers, subjects = answers.select(rows), subjects.select(going)
        # Adam, each request with moments of its own
        moment[active] = 0.9 * moment[active] + 0.1 * gradient
        square[active] = 0.999 * square[active] + 0.001 * gradient**2
        root = (square[active] / (1 - 0.999**step)).sqrt() + 1e-8
        moved = delta[active] - settings.learning_rate * (moment[active] / (1 - 0.9**step)) / root
        largest = settings.clamp * norm[active]
        delta[active] = moved * (largest / moved.norm(dim=1).clamp_min(1e-30)).clamp_max(1).unsqueeze(1)
    return delta, losses


def _logits_with(rows: Continuation, site: EditSite, delta: Tensor) -> Tensor:
    """Logits with a delta [N, d_out] added at the subject's last token of each row."""

    def addition(inputs: Tensor) -> Tensor:
        rest = inputs.shape[1] - 1
        return functional.pad(delta.unsqueeze(1), (0, 0, 0, rest))

    with added_to_output(site.module, addition, rows=len(delta)):
        return rows.logits()


def _in_contexts(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], contexts: Sequence[str]
) -> EncodedAnswers:
    """Row i K + j: request i in context j, with its new answer."""
    pairs = [(request, context) for request in requests for context in contexts]
    return encode_answers(
        tokenizer,
        [context + request.prompt for request, context in pairs],
        [request.target_new for request, _ in pairs],
        [len(context) + request.subject_end for request, context in pairs],
    )


def _about_subjects(tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
    """Row i: "{subject} is a" of request i, read at the subject's last token."""
    subjects = [request.subject.strip() for request in requests]
    return encode_subjects(tokenizer, [f"{s} is a" for s in subjects], [len(s) for s in subjects])
