"""ROME (arXiv 2202.05262), one fact, one rank-one update; and R-ROME (arXiv 2403.07175), without its flaw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.covariance.solver import CovarianceSolver
from lga_lightning.editing.context_templates import ContextTemplates
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.locate_then_edit import LocateThenEditMethod
from lga_lightning.editing.presets import preset_for
from lga_lightning.editing.target_value import TargetValues
from lga_lightning.models.architecture import edit_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ROME(LocateThenEditMethod):
    """Writes W <- W + Lambda u^T so that the key of the bare prompt gives the target value.

    u = C^-1 k / |C^-1 k| for the key k averaged over contexts; Lambda = (v* - W k0) / (k0 . u) for the key k0 of the bare
    prompt (section 3.1, eq. 2). That two different keys enter is the known flaw of ROME's code (see :class:`RROME`); it is
    kept here for comparison.

    Several requests in one batch have their values sought together and are written one after the other. Several layers
    are edited one after the other, each with a target value of its own, sought with the earlier ones in place.

    Args:
        steps: Evaluations of the loss in the search for the target value; None for what is published for the model.
        learning_rate: Of Adam in that search.
        weight_decay: Weight of |delta| / |h0|^2 in its loss; None for what is published for the model.
        clamp: The value moves by at most this many times its norm.
        kl_factor: Weight of the divergence from the unedited model on "{subject} is a".
        stop_loss: A request is done when its loss is below this.
        context_lengths: New tokens of the texts sampled from the model that prompts are put behind.
        contexts_each: Such texts a length.
        second_moment: Where C = E[k k^T] comes from, as :class:`CovarianceSolver` takes it. ``identity`` takes C = I, which is quick,
            and harms what is said about other subjects.
        moment_tokens: From how many tokens C is estimated, where it is; by default 20 times the width of a key.
    """

    name = "ROME"

    def __init__(
        self,
        steps: int | None = None,
        learning_rate: float = 0.5,
        weight_decay: float | None = None,
        clamp: float = 4.0,
        kl_factor: float = 0.0625,
        stop_loss: float = 0.05,
        context_lengths: tuple[int, ...] = (5, 10),
        contexts_each: int = 10,
        second_moment: str = "sampled",
        moment_tokens: int | None = None,
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

    def preset_search(self, model: PreTrainedModel) -> dict[str, float]:
        """Steps and weight decay."""
        known = preset_for(model)
        return {"steps": known.steps, "weight_decay": known.weight_decay}

    def target_layer(self, layers: Sequence[int]) -> int:
        """The first layer; what comes after it is sought with the edits so far in place."""
        return layers[0]

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """One block; see :func:`preset_for`."""
        return [preset_for(model).rome_layer]

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[TargetValues],
        layers: Sequence[int],
        memory: dict[int, Tensor] | None = None,
    ) -> list[WeightDelta]:
        """Rank-one updates, one a request and layer."""
        deltas = self._write_at(layers[0], model, groups)
        for layer in layers[1:]:
            for number, group in enumerate(groups):
                with deltas[number].applied(model):
                    again = self.optimize_targets(model, tokenizer, group.requests, [layer])
                    deltas[number] += self._write_at(layer, model, [again])[0]
        return deltas

    def written_key(self, keys: Tensor) -> Tensor:
        """The key that gives the target value after the edit.

        Args:
            keys: [N, K, d_in] keys in contexts, that of the bare prompt first.

        Returns:
            [N, d_in].
        """
        return keys[:, 0]

    def _write_at(self, layer: int, model: PreTrainedModel, groups: Sequence[TargetValues]) -> list[WeightDelta]:
        """One layer's updates."""
        site = edit_site(model, layer)
        deltas = []
        for group in groups:
            solved = self.second_moment.solve(model, layer, group.keys.mean(1))
            directions = solved / solved.norm(dim=1, keepdim=True)
            written = self.written_key(group.keys)
            with torch.no_grad():
                missing = site.values(group.keys[:, 0]) + group.delta - site.values(written)
            changes = torch.empty_like(missing)
            for row in range(len(missing)):
                # what the updates before this one already make of its key
                present = changes[:row].T @ (directions[:row] @ written[row])
                changes[row] = (missing[row] - present) / (written[row] @ directions[row])
            deltas.append(WeightDelta({layer: (changes.T.contiguous(), directions)}))
        return deltas


class RROME(ROME):
    """ROME with the averaged key everywhere, which is what keeps many edits in a row stable.

    Takes the arguments of :class:`ROME`.
    """

    name = "R-ROME"

    def written_key(self, keys: Tensor) -> Tensor:
        """The mean over contexts; see :class:`ROME`."""
        return keys.mean(1)
