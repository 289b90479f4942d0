"""What MEMIT, EMMET, AlphaEdit and PMET share: one target value at the last layer, written by all layers in turn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lga_lightning.covariance.solver import CovarianceSolver
from lga_lightning.editing.context_templates import ContextTemplates, in_contexts
from lga_lightning.editing.delta import WeightDelta, attached
from lga_lightning.editing.locate_then_edit import LocateThenEditMethod
from lga_lightning.editing.presets import WINDOW, preset_for
from lga_lightning.editing.target_value import TargetValues
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.encoding import encode_subjects
from lga_lightning.models.hooks import captured_inputs, captured_outputs, frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.partial_passes import ends_after
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest


class MultiLayerMethod(LocateThenEditMethod):
    """MEMIT's scheme (arXiv 2210.07229, algorithm 1), in which its successors change the closed form.

    z = h0 + delta is sought at the last layer. Ascending over the layers, with the updates so far in place, the keys K [d_in, n]
    of the requests and their present values h are taken; of the residual z - h each layer writes its share R [d_out, n]:
    W <- W + R A, where A [n, d_in] is the method's closed form.

    Args:
        steps: Evaluations of the loss in the search for the target value; None for what is published for the model.
        learning_rate: Of Adam in that search; None for what is published for the model.
        weight_decay: Weight of |delta| / |h0|^2 in its loss; None for what is published for the model.
        clamp: The value moves by at most this many times its norm; None for what is published for the model.
        kl_factor: Weight of the divergence from the unedited model on "{subject} is a".
        stop_loss: A request is done when its loss is below this.
        context_lengths: New tokens of the texts sampled from the model that prompts are put behind.
        contexts_each: Such texts a length.
        second_moment: Where C = E[k k^T] comes from, as :class:`CovarianceSolver` takes it.
        moment_tokens: From how many tokens C is estimated, where it is; by default 20 times the width of a key.
        window: How many layers ``golden`` stands for.
    """

    def __init__(
        self,
        steps: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        clamp: float | None = None,
        kl_factor: float = 0.0625,
        stop_loss: float = 0.05,
        context_lengths: tuple[int, ...] = (10,),
        contexts_each: int = 5,
        second_moment: str = "sampled",
        moment_tokens: int | None = None,
        window: int = WINDOW,
    ) -> None:
        search = {
            "steps": steps,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "clamp": clamp,
            "kl_factor": kl_factor,
            "stop_loss": stop_loss,
        }
        super().__init__(
            search, ContextTemplates(context_lengths, contexts_each), CovarianceSolver(second_moment, moment_tokens)
        )
        if window < 1:
            raise SettingError(f"`window` must be at least 1, got {window}.")
        self.window = window

    @abstractmethod
    def solve_update(self, model: PreTrainedModel, layer: int, keys: Tensor, memory: Tensor | None) -> Tensor:
        """A of the update R A.

        Args:
            model: The model, for its second moments.
            layer: The block that is edited.
            keys: [n, d_in] the requests' keys.
            memory: [m, d_in] keys of earlier calls of the editing run, or None.

        Returns:
            [n, d_in].
        """

    def residual_divisor(self, left: int) -> float:
        """By what a layer divides the residual, when so many layers are left, itself included."""
        return left

    def intervention_modules(self, model: PreTrainedModel, layer: int) -> list[nn.Module]:
        """The modules whose outputs are moved in the search; the last one's value is the target."""
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
        memory: dict[int, Tensor] | None = None,
    ) -> list[WeightDelta]:
        """An update of every layer for each group."""
        deltas = [WeightDelta({}) for _ in groups]
        sizes = [len(group.requests) for group in groups]
        found = TargetValues.join(groups)
        contexts = self.contexts.of(model, tokenizer)
        place = self.intervention_modules(model, layers[-1])[-1]
        for number, layer in enumerate(layers):
            site = edit_site(model, layer)
            keys, outputs, present = self._look(
                model, tokenizer, found.requests, contexts, layers, number, deltas, sizes
            )
            residual = (found.before + found.delta - present) / self.residual_divisor(len(layers) - number)
            if place is not edit_site(model, layers[-1]).module:  # the target is a value of the residual stream
                residual = site.before_norm(outputs, residual)
            seen = (memory or {}).get(layer)
            for group, (k, r) in enumerate(zip(keys.split(sizes), residual.split(sizes), strict=True)):
                a = self.solve_update(model, layer, k, seen).to(r)
                deltas[group] += WeightDelta({layer: (r.T.contiguous(), a)})
            if memory is not None:
                memory[layer] = keys if seen is None else torch.cat([seen, keys])
        return deltas

    def _look(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        contexts: Sequence[str],
        layers: Sequence[int],
        number: int,
        deltas: Sequence[WeightDelta],
        sizes: Sequence[int],
        max_rows: int = 256,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [N, d_in] and outputs [N, d_out] of one layer's module, and the present values [N, d] at the last layer."""
        site, place = edit_site(model, layers[number]), self.intervention_modules(model, layers[-1])[-1]
        last = blocks(model)[layers[-1]]
        owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        step = max(1, max_rows // len(contexts))
        parts = []
        for start in range(0, len(requests), step):
            texts, ends = in_contexts(requests[start : start + step], contexts)
            batch = encode_subjects(tokenizer, texts, ends).to(input_device(model))
            rows = None if len(sizes) == 1 else owner[start : start + step].repeat_interleave(len(contexts))
            with (
                torch.no_grad(),
                frozen(model),
                attached(model, deltas, rows),
                captured_inputs([site.module], batch.subject) as inputs,
                captured_outputs([site.module, place], batch.subject) as outputs,
                ends_after(last),
            ):
                model(input_ids=batch.input_ids, use_cache=False)
            keys = at_least_float32(inputs[0]).unflatten(0, (-1, len(contexts)))
            bare = [at_least_float32(output)[:: len(contexts)] for output in outputs]
            parts.append((self.contexts.grouped_mean(keys), *bare))
        keys, outputs_at, present = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return keys, outputs_at, present


class WeightedMultiLayerMethod(MultiLayerMethod):
    """Those in whose closed form C has a weight: C~ = lambda C.

    Args:
        moment_weight: lambda; None for what is published for the model.
        arguments: Those of :class:`MultiLayerMethod`.
    """

    def __init__(self, moment_weight: float | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        if moment_weight is not None and not moment_weight > 0:
            raise SettingError(f"`moment_weight` must be above 0, got {moment_weight}.")
        self._moment_weight = moment_weight

    @abstractmethod
    def preset_weight(self, model: PreTrainedModel) -> float:
        """The lambda that is published for a model."""

    def moment_weight(self, model: PreTrainedModel) -> float:
        """The weight of C, lambda."""
        return self.preset_weight(model) if self._moment_weight is None else self._moment_weight

    def weighted(self, model: PreTrainedModel, layer: int, keys: Tensor) -> Tensor:
        """C~^-1 k for keys [n, d_in]: [n, d_in] in float64."""
        return self.second_moment.solve(model, layer, keys.double()) / self.moment_weight(model)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Name and settings, for result files."""
        return {**super().settings(model), "moment_weight": self.moment_weight(model)}
