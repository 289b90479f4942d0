"""The value that makes the model say the new answer: found for many requests at once.

ROME (arXiv 2202.05262), section 3.1, step 2, eq. 4, as in its public code: gradient descent on a vector delta that is
added to a module's output at the subject's last token. MEMIT (arXiv 2210.07229), section 4.1, eq. 16, adds it to a block's
output, and PMET (arXiv 2308.08742), section 3, eq. 7, to the attention's and the MLP's at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.context_templates import in_contexts
from lga_lightning.editing.row_adam import RowAdam
from lga_lightning.editing.targets import EditTargets
from lga_lightning.exceptions import InvalidRequest, SettingError
from lga_lightning.models.architecture import longest_text
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import IGNORE, EncodedAnswers, encode_answers, encode_subjects
from lga_lightning.models.hooks import added_to_output, captured_inputs, captured_outputs, frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.pieces import MOST_TOKENS, row_by_row
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS_ON_CPU, ROWS_ELSEWHERE = 64, 1024  # of a batch, where nothing else is said
PIECE = 2**12  # tokens of a piece, where there are more than MOST_TOKENS


@dataclass(frozen=True)
class TargetValueSettings:
    """Settings of the search for the target value.

    Attributes:
        steps: Evaluations of the loss, at least 2; there is one update less, as in ROME's code.
        learning_rate: Learning rate of Adam.
        weight_decay: Weight of |delta| / |h0|^2, h0 the value before the edit.
        clamp: Bound of |delta|, in multiples of |h0|.
        kl_factor: Weight of the divergence from the unedited model on "{subject} is a".
        stop_loss: Loss below which a request is done.
        contexts_each_step: Contexts that an evaluation looks at; they take turns. None for all of them, as published.
    """

    steps: int = 25
    learning_rate: float = 0.5
    weight_decay: float = 1e-3
    clamp: float = 4.0
    kl_factor: float = 0.0625
    stop_loss: float = 0.05
    contexts_each_step: int | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value, least = getattr(self, f.name), {"steps": 2, "contexts_each_step": 1}.get(f.name, 0)
            if value is not None and not value >= least:
                raise SettingError(f"`{f.name}` must be at least {least}, got {value}.")


@dataclass
class TargetValues(EditTargets):
    """Target values of N requests, found in K contexts.

    Attributes:
        keys: Inputs of the edited module at the subject's last token, the bare prompt's first, [N, K, d_in].
        before: Outputs h0 there, on the bare prompt, of the module that delta was added to, [N, d].
        delta: Change that makes them the targets, v* = h0 + delta, [N, d]; of several modules, the last one's.
        loss: Last loss, [N].
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
    intervention_modules: Sequence[nn.Module],
    max_rows: int | None = None,
) -> TargetValues:
    """Find the target values of N requests, side by side; a request that has converged leaves its batch.

    The loss of a request: the mean over contexts (those whose turn it is) of the new answer's NLL, plus ``kl_factor`` times
    KL(edited || unedited) after the subject in "{subject} is a", plus ``weight_decay`` |delta| / |h0|^2.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        contexts: K texts to put before the prompt, "" the first.
        site: The module that is edited: keys are its inputs.
        settings: Settings of the search.
        intervention_modules: P modules of the same block to whose outputs a delta each is added, in the order in which they
            run.
        max_rows: Number of rows (a request in a context) of a batch; requests of like length share one. By default 64 on a
            CPU, where padding costs more than a larger batch saves, else 1,024.
    """
    batches = search_batches(model, tokenizer, requests, len(contexts), max_rows)
    parts = [
        _find_in_one_batch(
            model, tokenizer, [requests[row] for row in rows], contexts, site, settings, intervention_modules
        )
        for rows in batches
    ]
    found = TargetValues.in_order(batches, parts)
    lost = [request.prompt for request, delta in zip(found.requests, found.delta, strict=True) if delta.isnan().any()]
    if lost:
        warnings.warn(
            f"The model gives no numbers for {', '.join(map(repr, lost[:3]))}{' and others' * (len(lost) > 3)}, so there is nothing to edit by: "
            "these edits are NaN, and so is all that is edited together with them. Leave such facts out, or take --model.dtype float32.",
            stacklevel=2,
        )
    return found


def search_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: int,
    max_rows: int | None = None,
) -> list[list[int]]:
    """The batches in which :func:`find_target_values` goes through requests, as their positions.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer.
        requests: The requests.
        contexts: Number of contexts.
        max_rows: See :func:`find_target_values`.
    """
    rows = max_rows or (ROWS_ON_CPU if input_device(model).type == "cpu" else ROWS_ELSEWHERE)
    order, step = _by_length(tokenizer, requests), max(1, rows // contexts)
    return [order[start : start + step] for start in range(0, len(order), step)]


def _by_length(tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> list[int]:
    """Requests in the order of what their passes cost: tokens of the answer, then tokens from the subject on."""
    encoded = _encode_in_contexts(tokenizer, requests, [""])
    tokens = (encoded.labels != IGNORE).sum(1).tolist()
    length = (encoded.positions.amax(1) - encoded.subject).tolist()
    return sorted(range(len(requests)), key=lambda i: (tokens[i], length[i]))


def _find_in_one_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    site: EditSite,
    settings: TargetValueSettings,
    intervention_modules: Sequence[nn.Module],
) -> TargetValues:
    """One batch of :func:`find_target_values`."""
    device = input_device(model)
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        encoded = _encode_in_contexts(tokenizer, requests, contexts)
        _check_length(model, encoded, requests, len(contexts))
        answers = CachedSuffix(model, encoded.to(device), site.layer)
        subjects = CachedSuffix(model, _encode_descriptions(tokenizer, requests).to(device), site.layer)
        with torch.no_grad():
            at = answers.batch.subject
            with captured_inputs([site.module], at) as inputs, captured_outputs(intervention_modules, at) as outputs:
                answers.read()
            keys = at_least_float32(inputs[0]).unflatten(0, (len(requests), len(contexts)))
            before = torch.stack([at_least_float32(output)[:: len(contexts)] for output in outputs], 1)
            original = subjects.logits()[:, 0].log_softmax(-1)
        delta, loss = _optimize(answers, subjects, original, before, len(contexts), intervention_modules, settings)
    return TargetValues(list(requests), keys, before[:, -1], delta[:, -1], loss)


def _optimize(
    answers: CachedSuffix,
    subjects: CachedSuffix,
    original: Tensor,
    before: Tensor,
    contexts: int,
    intervention_modules: Sequence[nn.Module],
    settings: TargetValueSettings,
) -> tuple[Tensor, Tensor]:
    """Adam on all deltas at once, projected to the clamp after each step. Returns delta [N, P, d] and loss [N]."""
    norm = before.norm(dim=-1)
    delta = torch.zeros_like(before)
    adam = RowAdam(delta, settings.learning_rate)
    losses = torch.full_like(norm[:, 0], torch.inf)
    sound = torch.full_like(delta, torch.nan)  # the last whose losses were numbers
    active = torch.arange(len(before), device=before.device)
    seen = min(settings.contexts_each_step or contexts, contexts)
    for step in range(1, settings.steps):
        leaf = delta[active].requires_grad_()
        looked_at = answers if seen == contexts else _in_turn(answers, contexts, seen, step)
        nll = _nll_with(looked_at, intervention_modules, leaf.repeat_interleave(seen, 0))
        with _added(intervention_modules, leaf):
            edited = subjects.logits()[:, 0].log_softmax(-1)
        # the gradient of KL without the term sum dp, which is 0 but for rounding: at delta = 0 it is 0 exactly
        divergence = (edited.exp() * (edited - original).detach()).sum(-1)
        loss = (nll.unflatten(0, (-1, seen)).mean(1) + settings.kl_factor * divergence).to(delta.device)
        # at delta = 0 the gradient of this norm is 0
        sizes = torch.linalg.vector_norm(leaf, dim=-1) / norm[active] ** 2
        loss = loss + settings.weight_decay * sizes.sum(1)
        found = loss.detach()
        is_number = found.isfinite()
        losses[active[is_number]] = found[is_number].to(losses.dtype)
        lost = active[~is_number]
        delta[lost] = sound[lost]  # NaN from the first: no edit, and none that is taken for one
        going = ((found >= settings.stop_loss) & is_number).nonzero().squeeze(1)
        if not len(going):
            break
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if step == 1:
            # an answer that does not see delta (edited in the last block, say): rounding errors must not move it
            going = going[(gradient[going] != 0).flatten(1).any(1)]
            if not len(going):
                break
        if len(going) < len(active):
            active, gradient, original = active[going], gradient[going], original[going.to(original.device)]
            rows = (going.unsqueeze(1) * contexts + torch.arange(contexts, device=going.device)).flatten()
            answers, subjects = answers.select(rows), subjects.select(going)
        sound[active] = delta[active]
        adam.step_(active, gradient)
        largest = settings.clamp * norm[active]
        moved = delta[active]
        delta[active] = moved * (largest / moved.norm(dim=-1).clamp_min(1e-30)).clamp_max(1).unsqueeze(-1)
    return delta, losses


def _in_turn(answers: CachedSuffix, contexts: int, seen: int, step: int) -> CachedSuffix:
    """Each request's rows of some contexts, those that follow the ones of the step before; after the last comes the first."""
    turn = (torch.arange(seen) + (step - 1) * seen) % contexts
    rows = torch.arange(len(answers.batch)).unflatten(0, (-1, contexts))[:, turn].flatten()
    return answers.select(rows.to(answers.batch.labels.device))


def _nll_with(rows: CachedSuffix, intervention_modules: Sequence[nn.Module], deltas: Tensor) -> Tensor:
    """Mean negative log-likelihoods [N] of the rows' answers with deltas [N, P, d]; of very many tokens in pieces."""

    def nll(rows: CachedSuffix, deltas: Tensor) -> tuple[Tensor, Tensor]:
        with _added(intervention_modules, deltas):
            answers = rows.read()
        return answers.nll, answers.predicted

    length = rows.batch.input_ids.shape[1]
    if len(deltas) * length <= MOST_TOKENS:
        return nll(rows, deltas)[0]
    pieces = torch.arange(len(deltas), device=deltas.device).split(max(1, PIECE // length))
    return torch.cat([row_by_row(partial(nll, rows.select(piece)), deltas[piece])[0] for piece in pieces])


@contextmanager
def _added(intervention_modules: Sequence[nn.Module], deltas: Tensor) -> Iterator[None]:
    """Within the block, deltas [N, P, d] are added to the outputs of P modules at the subject's last token of each row."""

    def at_subject(delta: Tensor, inputs: Tensor) -> Tensor:
        return functional.pad(delta.unsqueeze(1), (0, 0, 0, inputs.shape[1] - 1))

    with ExitStack() as stack:
        for module, delta in zip(intervention_modules, deltas.unbind(1), strict=True):
            stack.enter_context(
                added_to_output(module, lambda inputs, delta=delta: at_subject(delta, inputs), rows=len(deltas))  # type: ignore[misc]
            )
        yield


def _encode_in_contexts(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], contexts: Sequence[str]
) -> EncodedAnswers:
    """Row i K + j: request i in context j, with its new answer."""
    texts, ends = in_contexts(requests, contexts)
    return encode_answers(tokenizer, texts, [request.target_new for request in requests for _ in contexts], ends)


def _check_length(
    model: PreTrainedModel, encoded: EncodedAnswers, requests: Sequence[EditRequest], contexts: int
) -> None:
    """Refuse a prompt that takes more positions behind a context than the model has.

    Raises:
        InvalidRequest: Names the longest.
    """
    lengths = encoded.positions.amax(1) + 1
    longest = int(lengths.max())
    if longest_text(model, longest) < longest:
        request = requests[int(lengths.argmax()) // contexts]
        raise InvalidRequest(
            "too long for the model",
            f"The prompt {request.prompt[:60]!r} takes {longest:,} tokens with its answer, behind a text that the model has written "
            f"(`context_lengths`), and the model has {longest_text(model, longest):,} positions. Shorten it, leave the request out, or edit "
            "with shorter contexts.",
        )


def _encode_descriptions(tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
    """Row i: "{subject} is a" of request i, read at the subject's last token."""
    subjects = [request.about.strip() for request in requests]
    return encode_subjects(tokenizer, [f"{s} is a" for s in subjects], [len(s) for s in subjects])
