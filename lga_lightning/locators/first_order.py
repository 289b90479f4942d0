"""What edits at every layer would do, before any is made: the engine of :class:`~lga_lightning.locators.EditForecast`.

One forward and one backward pass over a batch of rows. While the backward pass runs, block by block, the update that the
method would write is formed, and what it does to the residual stream at every token of every row that it may concern:

    D_t = N(o_t + sum_r (q_r . a_t) p_r) - N(o_t)        for dW = sum_r p_r q_r^T

with the inputs a_t and outputs o_t of the edited matrix, and the norm N that some families put behind it (else D_t is what the
update adds). From there on the loss is taken as linear, but for one thing: what comes later reads a normalised stream x_t,
in which a long D_t drowns x_t and grows no further. So the loss changes by

    sum_t (g_t . D_t) |x_t| / sqrt(|x_t|^2 + |D_t|^2)        with g_t its gradient at the block's output

which is <dL/dW, dW> for a small update. On the request's own prompt nothing is taken to saturate: the search for the target value
sees that very loss bend, and turns with it. No update is ever materialised, nor a gradient of a weight, but for fine-tuning, whose
steps go by its entries: in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EditMethod
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.metrics.accuracy import token_accuracy
from lga_lightning.models.answers import read_answers
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.encoding import IGNORE, EncodedAnswers, encode_answers
from lga_lightning.models.hooks import OutputGradients, frozen, per_row, whole_outputs
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Ask(IntEnum):
    """What a row asks of an edit."""

    REWRITE = 0
    """The new answer on the request's own prompt."""
    REPHRASE = 1
    """The new answer on a rephrase."""
    KEEP = 2
    """What the model says at present, on a prompt that the edit must leave alone."""


@dataclass(frozen=True)
class Rows:
    """The rows of a pass.

    Attributes:
        batch: N prompts with answers.
        owner: [N] the request that a row belongs to. The first B rows are the requests' own prompts with their new answers.
        ask: [N] what a row asks, an :class:`Ask`.
        rival: [N] the first token of the owner's new answer, which is to take the lead, or must not.
    """

    batch: EncodedAnswers
    owner: Tensor
    ask: Tensor
    rival: Tensor

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device."""
        return Rows(self.batch.to(device), self.owner.to(device), self.ask.to(device), self.rival.to(device))


@dataclass(frozen=True)
class ForecastRows:
    """What edits at each of L layers would do to N rows.

    Attributes:
        behind: [N] how far the new answer's first token is behind the model's own before the edit, in logits, at least 0.
        right: [N] share of the new answer's tokens that the model gives already, each after the right ones before it; of what must
            not change, of the first alone.
        gain: [N, L] what the edit of the row's owner is expected to make of that up, in logits; on the request's own prompt in nats
            of the new answer's NLL, which is what the method works on.
    """

    behind: Tensor
    right: Tensor
    gain: Tensor

    def part(self, rows: Tensor) -> ForecastRows:
        """Some of the rows.

        Args:
            rows: [N] which of them, as a mask.
        """
        return ForecastRows(self.behind[rows], self.right[rows], self.gain[rows])


def forecast_rows(model: PreTrainedModel, editor: EditMethod, rows: Rows, count: int) -> ForecastRows:
    """Forecast edits of requests at every layer; of a method that edits a window, at every window, named by its last layer.

    Args:
        model: A causal language model with L blocks; it is left as it was.
        editor: The method that would edit.
        rows: N rows, on the model's device.
        count: Number B of requests.
    """
    sites = [edit_site(model, layer) for layer in range(len(blocks(model)))]
    for site in sites:
        site.check_one_norm()
    gated = [site.gate for site in sites if site.gate is not None]
    rows = replace(rows, batch=rows.batch.as_read())
    total, own, elsewhere = len(rows.batch), torch.arange(count), rows.ask != Ask.REWRITE
    subject = rows.batch.subject[:count]
    answer = rows.batch.positions[:count].where(rows.batch.labels[:count] != IGNORE, -1)
    changes = torch.zeros(total, len(sites), dtype=torch.float64, device=rows.owner.device)
    behind_norm: dict[int, tuple[Tensor, Tensor]] = {}  # inputs of norms, and gradients at their outputs
    windows: list[tuple[int, Tensor]] = []  # (last layer, expected change) of the windows that the present layer is in

    def receive(key: tuple[str, int], inputs: Tensor, gradients: Tensor) -> None:
        kind, layer = key
        inputs, gradients = (at_least_float32(per_row(tensor, total)) for tensor in (inputs, gradients))
        if kind == "norm":
            behind_norm[layer] = inputs, gradients
            return
        site = sites[layer]
        outputs, at_stream = behind_norm.pop(layer, (None, gradients))
        stream = at_least_float32(per_row(streams[layer].detach(), total)).to(gradients.device)
        place = subject.to(gradients.device)
        gates = None
        if site.gate is not None:
            gates = at_least_float32(per_row(gated_by[gated.index(site.gate)].detach(), total)).to(gradients.device)
        facts = LinearisedFacts(
            site=site,
            inputs=inputs[:count],
            gradients=gradients[:count],
            stream=stream[own, place],
            stream_gradients=at_stream[own, place],
            subject=place,
            answer=answer,
            nll=nll.detach()[:count].to(gradients),
            gates=None if gates is None else gates[own, place],
            outputs=None if outputs is None else outputs[own, place],
        )
        windows.append((layer, editor.expected_change(model, facts)))
        while windows[0][0] - layer >= editor.window:
            windows.pop(0)
        directions = editor.expected_directions(model, facts)
        owner = rows.owner.to(gradients.device)
        answered = inputs @ directions[owner].mT  # [N, T, R]
        bends = elsewhere.to(gradients.device).unsqueeze(1)
        written, effect = None, changes.new_zeros(total)
        for last, change in windows:
            share = editor.expected_share(model, facts, change.to(gradients.device), last - layer + 1)
            if share is not written:  # several windows may ask the same of a block
                written = share
                moved = answered @ share[owner]
                if site.norm is not None and outputs is not None:
                    moved = site.norm(outputs + moved) - site.norm(outputs)
                left = saturation(stream, site.share(gates) * moved).where(bends, 1.0)
                effect = ((at_stream * moved).sum(-1) * left).sum(1).to(changes)
            changes[:, last] += effect

    watcher = OutputGradients(receive)
    watched: list[tuple[tuple[str, int], nn.Module]] = [(("site", site.layer), site.module) for site in sites]
    watched += [(("norm", site.layer), site.norm) for site in sites if site.norm is not None]
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen(model),
        watcher.watch(watched),
        whole_outputs(blocks(model)) as streams,
        whole_outputs(gated) as gated_by,
    ):
        answers = read_answers(model, rows.batch)
        behind, nll = behind_the_top(answers.first, rows.rival), answers.nll
        watcher.backward(torch.where(elsewhere, behind, nll).sum())
    right = token_accuracy(answers.predicted, rows.batch.labels)
    return ForecastRows(behind.detach().double(), right.double(), -changes)


def saturation(stream: Tensor, moved: Tensor) -> Tensor:
    """Shares of what moving the residual stream would do that are left, where all that reads it reads it normalised.

    Args:
        stream: [N, T, d] the stream x.
        moved: [N, T, d] what is added to it, D.

    Returns:
        [N, T] |x| / sqrt(|x|^2 + |D|^2).
    """
    before = stream.square().sum(-1)
    return (before / (before + moved.square().sum(-1)).clamp_min(torch.finfo(before.dtype).tiny)).sqrt()


def behind_the_top(logits: Tensor, tokens: Tensor) -> Tensor:
    """How far tokens are behind the most likely ones, in logits.

    Args:
        logits: [N, V] logits.
        tokens: [N] a token for each row.

    Returns:
        [N], at least 0.
    """
    top = logits.detach().argmax(-1, keepdim=True)
    lead: Tensor = logits.gather(-1, top) - logits.gather(-1, tokens.unsqueeze(-1))
    return lead.squeeze(-1)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], others: Sequence[Sequence[EditRequest]]
) -> Rows:
    """Every request's prompt, its rephrases, and what must not change: its locality probes, or else other facts.

    All rows end in the new answer, whose first token is looked at; on the request's own prompt all of it is. Behind what must not
    change no more than the first is read: nobody has asked whether the rest fits there.

    Args:
        tokenizer: A fast tokenizer.
        requests: B requests.
        others: For each, requests about other subjects, to take the place of probes where it has none.
    """
    prompts, owner = [request.prompt for request in requests], list(range(len(requests)))
    ask: list[int] = [Ask.REWRITE] * len(requests)
    for number, (request, instead) in enumerate(zip(requests, others, strict=True)):
        probes = [probe.prompt for kind in request.locality.values() for probe in kind]
        kept = probes or [other.prompt for other in instead]
        prompts += [*request.rephrases, *kept]
        ask += [Ask.REPHRASE] * len(request.rephrases) + [Ask.KEEP] * len(kept)
        owner += [number] * (len(prompts) - len(owner))
    ends = [request.anchor_end for request in requests] + [1] * (len(prompts) - len(requests))
    batch = encode_answers(tokenizer, prompts, [requests[number].target_new for number in owner], ends)
    short = torch.tensor(ask) == Ask.KEEP
    batch.labels[short, 1:], batch.positions[short, 1:] = IGNORE, 0
    return Rows(batch, torch.tensor(owner), torch.tensor(ask), batch.labels[:, 0])
