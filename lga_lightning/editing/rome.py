"""ROME (arXiv 2202.05262), one fact, one rank-one update; and R-ROME (arXiv 2403.07175), without its flaw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.covariance.solver import IDENTITY
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.history import remember, solve_with_history, with_more_rows
from lga_lightning.editing.locate_then_edit import LocateThenEditMethod
from lga_lightning.editing.presets import preset_for
from lga_lightning.editing.target_value import TargetValues
from lga_lightning.editing.updates import LowRankUpdate
from lga_lightning.models.architecture import edit_site
from lga_lightning.utils.settings import check_above_zero

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ROME(LocateThenEditMethod):
    """Writes W <- W + Lambda u^T so that the key of the bare prompt gives the target value.

    u = C^-1 k / |C^-1 k| for the key k averaged over contexts; Lambda = (v* - W k0) / (k0 . u) for the key k0 of the bare
    prompt (section 3.1, eq. 2). That two different keys enter is the known flaw of ROME's code (see :class:`RROME`); it is
    kept here for comparison.

    Several requests in one batch have their values found together and are written one after the other. Several layers
    are edited one after the other, each with a target value of its own, found with the earlier ones in place.

    Args:
        learning_rate: Learning rate of Adam in the search for the target value.
        clamp: Bound of the value's change, in multiples of its norm.
        context_lengths: New tokens of the texts sampled from the model that prompts are put behind.
        contexts_each: Number of such texts of each length.
        history: Whether, in an editing session, the keys Kp of the edits before are protected as C is: u is then made of
            lambda C + Kp Kp^T in place of C (arXiv 2605.26670). Kp are the keys that were written, those of the same batch included.
        moment_weight: Weight lambda of C beside them; None for 1 if C = I, and else for MEMIT's, as published for the model.
        arguments: The other arguments of :class:`LocateThenEditMethod`.
    """

    name = "ROME"
    column_each = True
    in_turn = True

    def __init__(
        self,
        learning_rate: float = 0.5,
        clamp: float = 4.0,
        context_lengths: tuple[int, ...] = (5, 10),
        contexts_each: int = 10,
        history: bool = False,
        moment_weight: float | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            clamp=clamp,
            context_lengths=context_lengths,
            contexts_each=contexts_each,
            **arguments,
        )
        check_above_zero(moment_weight=moment_weight)
        self.keeps_history, self._moment_weight = history, moment_weight

    def moment_weight(self, model: PreTrainedModel) -> float:
        """The weight of C beside the keys of earlier edits, lambda."""
        if self._moment_weight is not None:
            return self._moment_weight
        return 1.0 if self.covariance.source == IDENTITY else preset_for(model).memit_weight

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        weight = {"moment_weight": self.moment_weight(model)} if self.keeps_history else {}
        return {**super().settings(model), "history": self.keeps_history, **weight}

    def preset_search(self, model: PreTrainedModel) -> dict[str, float]:
        """Steps and weight decay."""
        known = preset_for(model)
        return {"steps": known.steps, "weight_decay": known.weight_decay}

    def expected_directions(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """C^-1 k / (k . C^-1 k) for the key on the bare prompt; see :class:`EditMethod`."""
        solved = self.covariance.solve(model, facts.site.layer, facts.keys)
        return (solved / (facts.keys * solved).sum(-1, keepdim=True)).unsqueeze(1)

    def target_layer(self, layers: Sequence[int]) -> int:
        """The first layer; the later ones have their targets found in :meth:`write`, with the edits so far in place."""
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
        history: dict[int, Tensor] | None = None,
    ) -> list[WeightDelta]:
        """Rank-one updates, one for each request and layer; see :class:`EditMethod`."""
        deltas = self._write_at(layers[0], model, groups, history)
        for layer in layers[1:]:
            for number, group in enumerate(groups):
                with deltas[number].applied(model):
                    targets = self.optimize_targets(model, tokenizer, group.requests, [layer])
                    deltas[number] += self._write_at(layer, model, [targets], history)[0]
        return deltas

    def written_key(self, keys: Tensor) -> Tensor:
        """The key that gives the target value after the edit.

        Args:
            keys: Keys in K contexts, that of the bare prompt first, [N, K, d_in].

        Returns:
            [N, d_in].
        """
        return keys[:, 0]

    def _write_at(
        self, layer: int, model: PreTrainedModel, groups: Sequence[TargetValues], history: dict[int, Tensor] | None
    ) -> list[WeightDelta]:
        """Updates of one layer, from targets that were found there."""
        site = edit_site(model, layer)
        deltas = []
        for group in groups:
            written = self.written_key(group.keys)
            solved = self._solve(model, layer, group.keys.mean(1), written, history)
            directions = solved / solved.norm(dim=1, keepdim=True)
            with torch.no_grad():
                missing = site.values(group.keys[:, 0]) + group.delta - site.values(written)
            changes = torch.empty_like(missing)
            for row in range(len(missing)):
                # what the updates before this one already make of its key
                present = changes[:row].T @ (directions[:row] @ written[row])
                changes[row] = (missing[row] - present) / (written[row] @ directions[row])
            deltas.append(WeightDelta.at(site, LowRankUpdate(changes.T.contiguous(), directions)))
        return deltas

    def _solve(
        self, model: PreTrainedModel, layer: int, keys: Tensor, written: Tensor, history: dict[int, Tensor] | None
    ) -> Tensor:
        """C^-1 k for keys k [n, d_in], or C~^-1 k in a session with a history, to which the written keys [n, d_in] are added."""
        if history is None:
            return self.covariance.solve(model, layer, keys)
        earlier, written = history.get(layer), written.double()
        history[layer] = remember(earlier, written)
        both = torch.cat([keys.double(), written])
        solved = solve_with_history(self.covariance, model, layer, both, self.moment_weight(model), earlier)
        before, of_written = solved.split(len(keys))
        # each row is written on top of those before it
        rows = [with_more_rows(before[row : row + 1], written[:row], of_written[:row]) for row in range(len(keys))]
        return torch.cat(rows).to(keys)


class RROME(ROME):
    """ROME with the averaged key everywhere, which is what keeps many edits in a row stable.

    Takes the arguments of :class:`ROME`.
    """

    name = "R-ROME"

    def written_key(self, keys: Tensor) -> Tensor:
        """The mean over contexts; see :class:`ROME`."""
        return keys.mean(1)
