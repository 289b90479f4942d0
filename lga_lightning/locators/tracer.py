"""Causal tracing of one fact: what restoring one token's clean state in a corrupted run brings back.

ROME (arXiv 2202.05262), section 2.1. Three things make it fast, none of which changes a result:

- all noisy copies, layers and kinds of one token go through the model together;
- a restoration changes nothing to the left of its token: keys and values there are those of the corrupted run;
- nor does it change the blocks below it: a row enters at the first block that it changes, so the batch grows block by block.

Blocks are called with the arguments that the model itself gives them, so no family needs a rule of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lga_lightning.data.requests import EditRequest
from lga_lightning.models.answers import tokens_at_once
from lga_lightning.models.architecture import attention, blocks, edit_site
from lga_lightning.models.encoding import encode_answers, token_at
from lga_lightning.models.hooks import captured_calls, first_tensor, logits_at, per_row, replaced_output, whole_outputs
from lga_lightning.models.likelihood import input_device, token_nll
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["block", "mlp", "attention"]
Job = tuple[int, int, Kind, int]
"""A restoration: the first block that it changes, the end of its window, what is restored, and the layer that it is of."""


@dataclass(frozen=True)
class EncodedFact:
    """A prompt with its old answer.

    Attributes:
        input_ids: [1, T] prompt and answer, without the answer's last token, which nothing comes after.
        answer: [1, A] the answer's tokens.
        subject: First and last token of the subject.
        last: The prompt's last token. The answer's are predicted there and at the A - 1 tokens after it.
    """

    input_ids: Tensor
    answer: Tensor
    subject: tuple[int, int]
    last: int


def encode_fact(tokenizer: PreTrainedTokenizerBase, request: EditRequest, device: torch.device) -> EncodedFact:
    """Tokenise a request with an old target, and find its subject by the tokenizer's offsets."""
    end = request.subject_end
    batch = encode_answers(tokenizer, [request.prompt], [str(request.target_old)], [end]).to(device)
    offsets = tokenizer(request.prompt.rstrip(), return_offsets_mapping=True)["offset_mapping"]
    last = int(batch.subject)
    begin = end - len(request.about.strip())
    covering = [index for index, (start, stop) in enumerate(offsets) if start <= begin < stop]
    first = covering[0] if covering else min(last, token_at(offsets, begin))
    return EncodedFact(batch.input_ids[:, :-1], batch.labels, (first, last), int(batch.positions[0, 0]))


def parts_of(model: PreTrainedModel) -> dict[str, list[nn.Module]]:
    """The modules of every block whose outputs are restored, by kind."""
    layers = range(len(blocks(model)))
    return {
        "mlp": [edit_site(model, layer).module for layer in layers],
        "attention": [attention(model, layer) for layer in layers],
    }


class Tracer:
    """A clean run and corrupted runs of one fact, and the effects of restoring parts of the first in the others.

    Use it on a :class:`frozen` model, without gradients.

    Args:
        model: A causal language model with L blocks.
        fact: The fact.
        noise: [C, S, d] what is added to the S embeddings of the subject's tokens in each of C corrupted runs.

    Attributes:
        corrupted: Mean probability of the answer in the corrupted runs.
    """

    def __init__(self, model: PreTrainedModel, fact: EncodedFact, noise: Tensor) -> None:
        from transformers import DynamicCache

        self.model, self.fact, self.copies = model, fact, len(noise)
        self.blocks = blocks(model)
        self._modules = parts_of(model)
        first, last = fact.subject
        rows, tokens = 1 + self.copies, fact.input_ids.shape[1]

        def corrupt(embedded: Tensor) -> Tensor:
            embedded = embedded.clone()
            embedded[1:, first : last + 1] += noise.to(embedded)
            return embedded

        self._cache: Any = DynamicCache()  # of a plain kind, which forgets nothing behind a sliding window
        with ExitStack() as stack:
            inputs = stack.enter_context(captured_calls(self.blocks[:1]))
            outputs = stack.enter_context(whole_outputs(self.blocks))
            parts = {kind: stack.enter_context(whole_outputs(modules)) for kind, modules in self._modules.items()}
            stack.enter_context(replaced_output(model.get_input_embeddings(), corrupt))
            self._run(fact.input_ids.expand(rows, -1), 0, self._cache)
        # what goes into each block, and out of the last: row 0 clean, the others corrupted
        self._hidden = [inputs[0][0][0], *outputs]
        self._clean = {kind: [per_row(part, rows)[0] for part in found] for kind, found in parts.items()}
        final = self._probability(self._hidden[-1][:, tokens - fact.answer.shape[1] :])
        self.corrupted = final[1:].mean().item()

    def effects(self, token: int, kinds: Sequence[Kind], window: int, max_rows: int = 512) -> dict[Kind, Tensor]:
        """Indirect effects of restoring one token, at every layer.

        Args:
            token: Index of the token; a token before the subject has no effect.
            kinds: What is restored: ``block`` (the output of one block), ``mlp`` or ``attention`` (the outputs of a window of
                blocks, max(0, l - window // 2) up to l - window // 2 + window, around each layer l).
            window: How many blocks.
            max_rows: Rows of a batch, at most.

        Returns:
            By kind, [L] the answer's mean probability over the noisy copies, less that in the corrupted runs.
        """
        count = len(self.blocks)
        jobs: list[Job] = []
        for kind in kinds:
            for layer in range(count):
                low = layer - window // 2
                span = (layer + 1, layer + 1) if kind == "block" else (max(0, low), min(count, low + window))
                jobs.append((*span, kind, layer))
        jobs.sort()
        calls = self._calls(token)
        result = {kind: torch.zeros(count, dtype=torch.float64) for kind in kinds}
        at_once = max(1, max_rows // self.copies)
        for start in range(0, len(jobs), at_once):
            chunk = jobs[start : start + at_once]
            restored = self._restore(token, chunk, calls).view(len(chunk), -1).double().mean(1).cpu()
            for (*_, kind, layer), probability in zip(chunk, restored, strict=True):
                result[kind][layer] = probability - self.corrupted
        return result

    def _restore(self, token: int, jobs: list[Job], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Tensor:
        """Probabilities [len(jobs) C]; the copies of a job stand together."""
        hidden = self._hidden[0][:0, token:]
        for layer in range(min(job[0] for job in jobs), len(self.blocks) + 1):
            for begin, _, kind, _ in jobs:
                if begin == layer:
                    joining = self._hidden[layer][1:, token:]
                    if kind == "block":
                        joining = joining.clone()
                        joining[:, 0] = self._hidden[layer][0, token]
                    hidden = torch.cat([hidden, joining])
            if layer < len(self.blocks):
                hidden = self._run_block(layer, token, hidden, jobs[: len(hidden) // self.copies], calls[layer])
        return self._probability(hidden[:, hidden.shape[1] - self.fact.answer.shape[1] :])

    def _run_block(
        self,
        layer: int,
        token: int,
        hidden: Tensor,
        jobs: list[Job],
        call: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> Tensor:
        """One block on the rows that are there by now, with the clean output of its parts where a window holds it."""
        with ExitStack() as stack:
            self._put_back(stack, layer, token, jobs, place=0)
            cache = self._prefix([layer], token, slice(1, None), len(jobs))
            args, kwargs = (_with_cache(given, cache) for given in call)
            return first_tensor(self.blocks[layer](hidden, *args, **kwargs))

    def _put_back(self, stack: ExitStack, layer: int, token: int, jobs: list[Job], place: int) -> None:
        """Until the stack is left, parts of a block give at a place what they gave at the token in the clean run, for the jobs that ask."""
        for kind, modules in self._modules.items():
            inside = torch.tensor([job[2] == kind and job[0] <= layer < job[1] for job in jobs])
            if inside.any():
                rows = inside.repeat_interleave(self.copies)
                clean = self._clean[kind][layer][token]

                def put(output: Tensor, rows: Tensor = rows, clean: Tensor = clean) -> Tensor:
                    restored = per_row(output, len(rows)).clone()
                    restored[rows.to(output.device), place] = clean
                    return restored.view_as(output)

                stack.enter_context(replaced_output(modules[layer], put))

    def _calls(self, token: int) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """What the model gives each block, beside the hidden states, when it runs from a token on."""
        with captured_calls(self.blocks) as calls:
            cache = self._prefix(range(len(self.blocks)), token, slice(0, 1))
            self._run(self.fact.input_ids[:, token:], token, cache)
        return [(args[1:], kwargs) for args, kwargs in calls]

    def _prefix(self, layers: Iterable[int], tokens: int, rows: slice, repeats: int = 1) -> Any:
        """A cache with the keys and values of the first tokens at some layers."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in layers if tokens else ():
            stored = self._cache.layers[layer]
            keys, values = (kv[rows, :, :tokens].repeat(repeats, 1, 1, 1) for kv in (stored.keys, stored.values))
            cache.update(keys, values, layer)
        return cache

    def _run(self, ids: Tensor, start: int, cache: Any) -> None:
        positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand(len(ids), -1)
        with logits_at(self.model, ids.new_zeros(len(ids), 1)):  # logits are not wanted here
            self.model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)

    def _probability(self, hidden: Tensor) -> Tensor:
        """Probability of the answer, [N, A, d] -> [N], for what comes out of the last block where it is predicted."""
        answer = self.fact.answer.expand(len(hidden), -1)
        states, tokens = hidden.flatten(0, 1).unsqueeze(1), answer.flatten()
        step, found, first = tokens_at_once(self.model), [], self.fact.input_ids[:, :1]
        for part, right in zip(states.split(step), tokens.split(step), strict=True):
            # the model's own way from there to its logits, on one token a row: it is given another's output of its blocks
            with replaced_output(self.blocks[-1], lambda output, part=part: part):  # type: ignore[misc]
                logits = self.model(input_ids=first.expand(len(part), 1), use_cache=False).logits
            found.append(token_nll(at_least_float32(logits[:, 0]), right))
        return (-torch.cat(found).view(answer.shape).sum(1)).exp()


def _with_cache(given: Any, cache: Any) -> Any:
    """A call's arguments with our cache in the place of the model's."""
    from transformers import Cache

    def exchange(value: Any) -> Any:
        return cache if isinstance(value, Cache) else value

    if isinstance(given, dict):
        return {name: exchange(value) for name, value in given.items()}
    return tuple(map(exchange, given))


def embedding_spread(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> float:
    """Standard deviation of all entries of the embeddings of the requests' subject tokens, each in its prompt."""
    facts = [encode_fact(tokenizer, request, input_device(model)) for request in requests]
    ids = [fact.input_ids[0, fact.subject[0] : fact.subject[1] + 1] for fact in facts]
    with torch.no_grad():
        embedded: Tensor = model.get_input_embeddings()(torch.cat(ids).unsqueeze(0))
    return embedded.double().std().item()
