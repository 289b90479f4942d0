"""CrispEdit (arXiv 2602.15823): fine-tuning along directions in which the loss of plain text hardly bends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.covariance.batches import SAMPLED, file_hash_of
from lga_lightning.covariance.curvature import Curvature, curvature_of
from lga_lightning.covariance.estimate import find_curvatures
from lga_lightning.covariance.low_curvature import LowCurvature
from lga_lightning.editing.adapter import check_finite
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.locft import BreadthFirstTuning
from lga_lightning.editing.presets import WINDOW, preset_for
from lga_lightning.editing.targets import EditTargets
from lga_lightning.editing.tuning import GradientFilter, like_changes
from lga_lightning.exceptions import SettingError
from lga_lightning.models.encoding import with_prompts
from lga_lightning.models.per_weights import PerWeights
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.per_model import PerModel
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest

PIECE = 256  # tokens of a piece of plain text


class CrispEdit(BreadthFirstTuning):
    """Adam on gradients without their components of high curvature, by K-FAC.

    The curvature is that of plain text in the unedited model, and, in an editing session, of the session's earlier edits: of their
    prompts and answers, each in the model as it was right after the edit, weighed by their numbers of tokens.

    Args:
        epochs: Number of epochs, at most.
        batch_size: Number of requests of a mini-batch.
        energy: Share gamma of all curvature that is kept clear of: the components of highest curvature that add up to it.
        curvature_text: Plain text: ``sampled`` for text that the model itself writes, or a text file or data set, as
            :func:`~lga_lightning.data.corpus.read_texts` takes it.
        curvature_tokens: Number of its tokens; by default those of 100 pieces of 256.
        end_of_text: Whether answers end with the tokenizer's end-of-text token, so that the model learns to stop there.
        window: Number of layers that ``golden`` stands for.
        arguments: More arguments of :class:`BreadthFirstTuning`.
    """

    name = "CrispEdit"
    keeps_history = True
    history_entry = Curvature

    def __init__(
        self,
        epochs: int = 25,
        batch_size: int = 32,
        energy: float = 0.8,
        curvature_text: str = SAMPLED,
        curvature_tokens: int = 100 * PIECE,
        end_of_text: bool = False,
        window: int = WINDOW,
        **arguments: Any,
    ) -> None:
        super().__init__(epochs, batch_size, end_of_text=end_of_text, **arguments)
        if not 0 < energy < 1:
            raise SettingError(
                f"`energy` is the share of the curvature that edits keep clear of, above 0 and below 1, got {energy}. With nothing "
                "to keep clear of, take LocFT."
            )
        check_at_least_one(curvature_tokens=curvature_tokens, window=window)
        self.window = window
        self.energy = energy
        self.curvature_text = curvature_text
        self.curvature_tokens = curvature_tokens
        self._curvatures: PerWeights[dict[int, Curvature]] = PerWeights()
        self._hashes: PerModel[dict[str, str]] = PerModel()
        self._directions: PerModel[dict[int, LowCurvature]] = PerModel()

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]) -> None:
        """Find the curvature of plain text in the layers; call it first while the model is not edited."""
        have = self._curvatures.of(model, dict)
        if not have:
            self._directions.pop(model, None)
            self._hashes.pop(model, None)  # of the file that the curvature is now taken from
        if missing := [layer for layer in layers if layer not in have]:
            have |= find_curvatures(model, tokenizer, missing, self.curvature_text, self.curvature_tokens, PIECE)

    def prepare_forecast(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]
    ) -> None:
        """The same."""
        self.prepare(model, tokenizer, layers)

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """Five blocks; see :func:`preset_for`."""
        first, last = preset_for(model).crisp_layers
        return list(range(first, last + 1))

    def filters(
        self, model: PreTrainedModel, sites: Sequence[EditSite], history: dict[int, Any] | None
    ) -> list[GradientFilter]:
        """Directions of low curvature of each matrix; see :class:`FineTuning`."""
        return [self._low_curvature(model, site, (history or {}).get(site.layer)) for site in sites]

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[EditTargets],
        layers: Sequence[int],
        history: dict[int, Any] | None = None,
    ) -> list[WeightDelta]:
        """Dense updates of all groups, and the curvature that they leave behind in a session; see :class:`EditMethod`.

        Raises:
            ModelError: If in a session the loss of a group is NaN or infinite.
        """
        deltas = super().write(model, tokenizer, groups, layers, history)
        if history is not None:
            for group, delta in zip(groups, deltas, strict=True):
                check_finite(delta.updates)  # or all that comes later would be NaN
                with delta.attached(model):
                    added = self._curvature_of_edits(model, tokenizer, group.requests, layers)
                for layer, curvature in added.items():
                    history[layer] = history[layer] + curvature if layer in history else curvature
        return deltas

    def followed(self, model: PreTrainedModel, facts: LinearisedFacts) -> tuple[Tensor, Tensor]:
        """The gradient at every token, less what is taken out of it; see :class:`FineTuning`."""

        def find() -> tuple[Tensor, Tensor]:
            outputs, inputs = self._low_curvature(model, facts.site).removed(facts.inputs, facts.gradients)
            return torch.cat([facts.gradients, -outputs], 1), torch.cat([facts.inputs, inputs], 1)

        found: tuple[Tensor, Tensor] = facts.once("followed", find)
        return found

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        names = ("energy", "curvature_text", "curvature_tokens")
        if model not in self._hashes:
            self._hashes[model] = file_hash_of("curvature_text", self.curvature_text)
        return {**super().settings(model), **{name: getattr(self, name) for name in names}, **self._hashes[model]}

    def _low_curvature(self, model: PreTrainedModel, site: EditSite, edits: Curvature | None = None) -> LowCurvature:
        """What plain text, and a session's edits, leave of a matrix's gradients."""
        like, plain = like_changes(model, site), self._curvatures[model][site.layer]
        if edits is not None:
            return LowCurvature.of(plain + edits, self.energy, like)
        found = self._directions.setdefault(model, {})
        if site.layer not in found or found[site.layer].keys.device != like.device:
            found[site.layer] = LowCurvature.of(plain, self.energy, like)
        return found[site.layer]

    def _curvature_of_edits(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> dict[int, Curvature]:
        """Of the loss of prompts and answers, every token of which but the first is scored."""
        parts = (requests[start : start + self.batch_size] for start in range(0, len(requests), self.batch_size))
        return curvature_of(model, layers, (with_prompts(self.encode(tokenizer, part)) for part in parts))
