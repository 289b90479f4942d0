"""Causal tracing by whole passes, for models whose blocks cannot go on by themselves from a token in the midst of a text."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.locators.tracer import EncodedFact, Job, Tracer, parts_of
from lga_lightning.models.architecture import blocks
from lga_lightning.models.hooks import logits_at, per_row, replaced_output, whole_outputs
from lga_lightning.models.likelihood import token_nll
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WholeTracer(Tracer):
    """As :class:`Tracer`, with the same results, and no key-value cache: every restoration runs all blocks on all tokens.

    Args:
        model: See :class:`Tracer`.
        fact: See :class:`Tracer`.
        noise: See :class:`Tracer`.
    """

    def __init__(self, model: PreTrainedModel, fact: EncodedFact, noise: Tensor) -> None:
        self.model, self.fact, self.noise, self.copies = model, fact, noise, len(noise)
        self.blocks = blocks(model)
        self._modules = {"block": self.blocks, **parts_of(model)}
        with ExitStack() as stack:
            parts = {kind: stack.enter_context(whole_outputs(modules)) for kind, modules in self._modules.items()}
            model(input_ids=fact.input_ids, use_cache=False)
        self._clean = {kind: [per_row(part, 1)[0] for part in found] for kind, found in parts.items()}
        self.corrupted = self._restore(0, [(0, 0, "mlp", 0)], []).mean().item()  # of an empty window

    def _calls(self, token: int) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return []

    def _restore(self, token: int, jobs: list[Job], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Tensor:
        """See :class:`Tracer`."""
        jobs = [(job[3], job[3] + 1, *job[2:]) if job[2] == "block" else job for job in jobs]
        first, last = self.fact.subject

        def corrupt(embedded: Tensor) -> Tensor:
            embedded = embedded.clone()
            embedded[:, first : last + 1] += self.noise.to(embedded).repeat(len(jobs), 1, 1)
            return embedded

        ids, answer = (row.expand(len(jobs) * self.copies, -1) for row in (self.fact.input_ids, self.fact.answer))
        places = torch.arange(ids.shape[1] - answer.shape[1], ids.shape[1], device=ids.device).expand_as(answer)
        with ExitStack() as stack:
            stack.enter_context(replaced_output(self.model.get_input_embeddings(), corrupt))
            for layer in range(len(self.blocks)):
                self._put_back(stack, layer, token, jobs, place=token)
            stack.enter_context(logits_at(self.model, places))
            logits = self.model(input_ids=ids, use_cache=False).logits
        return (-token_nll(at_least_float32(logits), answer).sum(1)).exp()
