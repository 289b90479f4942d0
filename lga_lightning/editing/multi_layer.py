"""What MEMIT, EMMET, AlphaEdit and PMET share: one target value at the last layer, written by all layers in turn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lga_lightning.editing.attaching import attached
from lga_lightning.editing.context_templates import in_contexts
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.history import remember, solve_with_history
from lga_lightning.editing.locate_then_edit import LocateThenEditMethod
from lga_lightning.editing.presets import WINDOW, preset_for
from lga_lightning.editing.target_value import TargetValues
from lga_lightning.editing.updates import LowRankUpdate
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.encoding import EncodedAnswers, encode_subjects
from lga_lightning.models.hooks import captured_inputs, captured_outputs, frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.partial_passes import BlockInput, ends_after, entered_at
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.settings import check_above_zero, check_at_least_one
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_ROWS = 256  # rows (a request in a context) of a batch
MOST_KEPT = 2**28  # numbers that are kept of what goes into a block


@dataclass
class _Rows:
    """Requests in contexts up to their subjects, which pass again and again while blocks are edited from the bottom up.

    Attributes:
        batch: [R, T] the rows, those of a request one after the other.
        owner: [R] number of each row's edit.
        contexts: Rows of a request.
        kept: Whether there is room for what goes into a block.
        layer: The block at which the next pass begins: what is below has not changed since the last one.
        block_input: What goes into it.
    """

    batch: EncodedAnswers
    owner: Tensor
    contexts: int
    kept: bool
    layer: int = 0
    block_input: BlockInput = field(default_factory=BlockInput)


class MultiLayerMethod(LocateThenEditMethod):
    """MEMIT's scheme (arXiv 2210.07229, algorithm 1), in which its successors change the closed form.

    The target value z = h0 + delta is found at the last layer. Ascending over the layers, with the updates so far in place,
    the keys K [d_in, n] of the requests and their present values h are taken; of the residual z - h each layer writes its
    share R [d_out, n]: W <- W + R A, where A [n, d_in] is the method's closed form, into which the keys of a session's earlier
    edits enter, in a method that keeps them.

    Args:
        window: Number of layers that ``golden`` stands for.
        arguments: Arguments of :class:`LocateThenEditMethod`.
    """

    column_each = True

    def __init__(self, window: int = WINDOW, **arguments: Any) -> None:
        super().__init__(**arguments)
        check_at_least_one(window=window)
        self.window = window

    @abstractmethod
    def solve_update(self, model: PreTrainedModel, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """A of the update R A.

        Args:
            model: The model, for its second moments.
            layer: Index of the block that is edited.
            keys: Keys of the requests, [n, d_in].
            earlier: Factor F [m, d_in], F^T F = Kp Kp^T, of the keys of earlier edits, for a method that keeps a history.

        Returns:
            A [n, d_in].
        """

    def expected_change(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """Of the value that the method aims at; see :class:`EditMethod`."""
        if self._aims_at_stream(model, facts.site):
            return self.search_end(model, facts.stream, facts.stream_gradients)
        return super().expected_change(model, facts)

    def expected_directions(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """The closed form for one key; see :class:`EditMethod`."""
        each = [self.solve_update(model, facts.site.layer, key.unsqueeze(0)) for key in facts.keys]
        return torch.stack(each).to(facts.keys)

    def expected_share(self, model: PreTrainedModel, facts: LinearisedFacts, changes: Tensor, left: int) -> Tensor:
        """What the window's blocks write in turn, each of what those before it leave; see :class:`EditMethod`."""
        rest = 1.0
        for more in range(self.window, left, -1):
            rest -= rest / self.residual_divisor(more)
        share = changes * (rest / self.residual_divisor(left))
        if self._aims_at_stream(model, facts.site):
            gates = None if facts.gates is None else facts.gates.unsqueeze(1)
            outputs = facts.values if facts.outputs is None else facts.outputs
            return facts.site.before_norm(outputs.unsqueeze(1), share, gates)
        return share

    def _aims_at_stream(self, model: PreTrainedModel, site: EditSite) -> bool:
        """Whether the target is a value of the residual stream, and not of the edited matrix."""
        return self.intervention_modules(model, site.layer)[-1] != site.module

    def residual_divisor(self, left: int) -> float:
        """What a layer divides the residual by.

        Args:
            left: Number of layers that are left, this one included.
        """
        return left

    def intervention_modules(self, model: PreTrainedModel, layer: int) -> list[nn.Module]:
        """The block: the target is a value of the residual stream."""
        return [blocks(model)[layer]]

    def preset_search(self, model: PreTrainedModel) -> dict[str, float]:
        """Steps, learning rate, weight decay and clamp."""
        known = preset_for(model)
        return {
            "steps": known.steps,
            "learning_rate": known.memit_rate,
            "weight_decay": known.weight_decay,
            "clamp": known.memit_clamp,
        }

    def target_layer(self, layers: Sequence[int]) -> int:
        """The last layer."""
        return layers[-1]

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """A window of blocks; see :func:`preset_for`."""
        first, last = preset_for(model).memit_layers
        return list(range(first, last + 1))

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[TargetValues],
        layers: Sequence[int],
        history: dict[Any, Any] | None = None,
    ) -> list[WeightDelta]:
        """An update of every layer for each group; see :class:`EditMethod`."""
        deltas = [WeightDelta({}) for _ in groups]
        sizes = [len(group.requests) for group in groups]
        targets = TargetValues.join(groups)
        target_site = edit_site(model, layers[-1])
        rows = self._rows(model, tokenizer, groups, MOST_KEPT // target_site.out_features)
        for number, layer in enumerate(layers):
            site = edit_site(model, layer)
            parts = [self._keys_and_values(model, part, site, target_site.layer, deltas) for part in rows]
            keys, outputs, values, *gates = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            residual = (targets.before + targets.delta - values) / self.residual_divisor(len(layers) - number)
            if self._aims_at_stream(model, target_site):
                residual = site.before_norm(outputs, residual, *gates)
            earlier = (history or {}).get(layer)
            for group, (k, r) in enumerate(zip(keys.split(sizes), residual.split(sizes), strict=True)):
                a = self.solve_update(model, layer, k, earlier).to(r).contiguous()
                deltas[group] += WeightDelta.at(site, LowRankUpdate(r.T.contiguous(), a))
            if history is not None:
                history[layer] = remember(earlier, keys)
        return deltas

    def _rows(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, groups: Sequence[TargetValues], room: int
    ) -> list[_Rows]:
        """The requests of all groups in all contexts, batch by batch; what goes into a block is kept of so many tokens."""
        contexts = self.contexts.of(model, tokenizer)
        requests = [(request, number) for number, group in enumerate(groups) for request in group.requests]
        step = max(1, MAX_ROWS // len(contexts))
        found = []
        for start in range(0, len(requests), step):
            asked, numbers = zip(*requests[start : start + step], strict=True)
            batch = encode_subjects(tokenizer, *in_contexts(asked, contexts)).to(input_device(model))
            room -= batch.input_ids.numel()
            owner = torch.tensor(numbers).repeat_interleave(len(contexts))
            found.append(_Rows(batch, owner, len(contexts), kept=room >= 0))
        return found

    def _keys_and_values(
        self, model: PreTrainedModel, rows: _Rows, site: EditSite, target_layer: int, deltas: Sequence[WeightDelta]
    ) -> tuple[Tensor, ...]:
        """What N requests make of a model with their edits so far in place.

        Args:
            model: A causal language model; it is not changed.
            rows: N requests in K contexts. Where there is room, what goes into the block of ``site`` is left there.
            site: The module that is to be edited next.
            target_layer: Index of the block whose values are to change.
            deltas: The edits so far.

        Returns:
            Mean keys [N, d_in] and, on the bare prompt, outputs [N, d_out] of the module (what goes into the norm behind it, if it has
            one), values [N, d] at the target layer, and, where the site has a gate, what it gives [N, 1].
        """
        target_module, every = self.intervention_modules(model, target_layer)[-1], blocks(model)
        block_input = BlockInput()
        with (
            torch.no_grad(),
            frozen(model),
            attached(model, deltas, None if len(deltas) == 1 else rows.owner),
            entered_at(every, rows.layer, rows.block_input),
            entered_at(every, site.layer, block_input),
            captured_inputs([site.module], rows.batch.subject) as inputs,
            captured_outputs([site.module, target_module], rows.batch.subject) as outputs,
            captured_outputs([] if site.gate is None else [site.gate], rows.batch.subject) as gates,
            captured_inputs([] if site.norm is None else [site.norm], rows.batch.subject) as behind,
            ends_after(model, every[target_layer]),
        ):
            model(input_ids=rows.batch.input_ids, use_cache=False)
        if rows.kept:
            rows.layer, rows.block_input = site.layer, block_input
        keys = at_least_float32(inputs[0]).unflatten(0, (-1, rows.contexts))
        site_outputs, values = outputs
        seen = (*(behind or [site_outputs]), values, *gates)
        bare = (at_least_float32(output)[:: rows.contexts] for output in seen)
        return self.contexts.grouped_mean(keys), *bare


class WeightedMultiLayerMethod(MultiLayerMethod):
    """Methods in whose closed form C has a weight: C~ = lambda C, or lambda C + Kp Kp^T with the keys of earlier edits.

    Args:
        moment_weight: Weight lambda of C; None for what is published for the model.
        history: Whether the keys Kp of a session's earlier edits are protected as C is (arXiv 2605.26670).
        arguments: Arguments of :class:`MultiLayerMethod`.
    """

    def __init__(self, moment_weight: float | None = None, history: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        check_above_zero(moment_weight=moment_weight)
        self._moment_weight = moment_weight
        self.keeps_history = history

    @abstractmethod
    def preset_weight(self, model: PreTrainedModel) -> float:
        """The lambda that is published for a model."""

    def moment_weight(self, model: PreTrainedModel) -> float:
        """The weight of C, lambda."""
        return self.preset_weight(model) if self._moment_weight is None else self._moment_weight

    def weighted(self, model: PreTrainedModel, layer: int, keys: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Products C~^-1 k for keys k [n, d_in]: [n, d_in] in float64; see :func:`solve_with_history`."""
        return solve_with_history(self.covariance, model, layer, keys, self.moment_weight(model), earlier)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        return {**super().settings(model), "moment_weight": self.moment_weight(model), "history": self.keeps_history}
