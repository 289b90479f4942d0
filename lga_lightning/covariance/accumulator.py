"""Second moments of keys: C = E[k k^T] over the tokens of plain text, for many layers in one pass.

ROME (arXiv 2202.05262), section 3.1: uncentred, over all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric

from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.encoding import pad_right
from lga_lightning.models.hooks import frozen, inputs_seen
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.partial_passes import ends_after
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WIDEST_OF_EXPERTS = 20_000
"""Width of the keys of experts side by side up to which C is kept."""


class CovarianceAccumulator(Metric):
    """Sums of k k^T by layer, and the number of tokens; the same on one process and on several.

    Products are taken in float32 over blocks of 1,024 tokens, whose sums are added up in float64.

    Args:
        model: A causal language model, for the widths of the keys.
        layers: Indices of the blocks.
    """

    full_state_update = False
    tokens: Tensor

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = sorted(layers)
        for layer in self.layers:
            width = _checked_width(edit_site(model, layer))
            self.add_state(f"sum_{layer}", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, model: PreTrainedModel, pieces: Sequence[Sequence[int]]) -> None:  # type: ignore[override]
        """Run pieces of text through the model, as far as the last of the layers.

        Args:
            model: The model.
            pieces: Token ids of some texts; none is fine.
        """
        if not pieces:
            return
        ids = pad_right(pieces, 0).to(input_device(model))
        real = torch.arange(ids.shape[1]) < torch.tensor([len(piece) for piece in pieces]).unsqueeze(1)
        modules = [edit_site(model, layer).module for layer in self.layers]
        with (
            torch.no_grad(),
            frozen(model),
            inputs_seen(modules, lambda number, inputs: self._add(self.layers[number], inputs, real)),
            ends_after(model, blocks(model)[self.layers[-1]]),
        ):
            model(input_ids=ids, use_cache=False)
        self.tokens += int(real.sum())

    def compute(self) -> dict[int, Tensor]:
        """C [d_in, d_in] by layer, in float64, over all processes."""
        return self.means()

    def means(self) -> dict[int, Tensor]:
        """C [d_in, d_in] by layer, in float64, of the sums that are here."""
        return {layer: getattr(self, f"sum_{layer}") / self.tokens for layer in self.layers}

    def _add(self, layer: int, inputs: Tensor, real: Tensor) -> None:
        keys = inputs.reshape(-1, inputs.shape[-1])[real.flatten().to(inputs.device)]
        total = getattr(self, f"sum_{layer}")
        for block in keys.split(1024):
            block = at_least_float32(block)
            total += (block.T @ block).to(total)


def _checked_width(site: EditSite) -> int:
    """The width of a site's keys.

    Raises:
        SettingError: If these are the keys of many experts side by side, whose C would not fit into memory.
    """
    if site.parts and site.in_features > WIDEST_OF_EXPERTS:
        size = 8e-9 * site.in_features**2
        raise SettingError(
            f"The keys of {site.name} are those of {len(site.parts)} experts side by side, {site.in_features} wide, and their second moments "
            f"would take {size:.0f} GB for this block alone. Edit with C = I (`second_moment='identity'`, --model.editor.second_moment identity)."
        )
    return site.in_features
