"""Settings that papers and toolkits use for models they know, and a rule by depth for all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lga_lightning.models.architecture import blocks, edit_site, signature

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Preset:
    """Settings for one model.

    Attributes:
        rome_layer: Block that ROME, R-ROME and EMMET edit.
        memit_layers: First and last block that MEMIT, AlphaEdit and PMET edit.
        tuned_layer: Block that FT-L and FT-M edit.
        locft_layer: Block that LocFT-BF edits.
        crisp_layers: First and last block that CrispEdit edits.
        steps: Evaluations of the loss in the search for the target value.
        weight_decay: Weight of |delta| / |h0|^2 in that search.
        memit_clamp: Clamp of MEMIT's, AlphaEdit's, EMMET's and PMET's search.
        memit_rate: Learning rate of Adam in their search.
        memit_weight: Weight lambda of C in MEMIT and PMET.
        alphaedit_l2: Weight of |Delta|^2 in AlphaEdit.
        emmet_weight: Weight lambda of C in EMMET.
    """

    rome_layer: int
    memit_layers: tuple[int, int]
    tuned_layer: int
    locft_layer: int
    crisp_layers: tuple[int, int]
    steps: int = 25
    weight_decay: float = 1e-3
    memit_clamp: float = 4.0
    memit_rate: float = 0.5
    memit_weight: float = 15000.0
    alphaedit_l2: float = 10.0
    emmet_weight: float = 1.0


# LocFT-BF and CrispEdit publish layers for LLaMA-3-8B, Mistral-7B and Qwen2.5-7B alone: those of the others are by depth
# by signature (family, number of blocks, width of a key), so that fine-tuned and renamed models are found
PRESETS = {
    # GPT-2 XL
    ("gpt2", 48, 6400): Preset(17, (13, 17), 0, 33, (31, 35), 20, 0.5, 0.75, 0.5, 20000.0, 10.0, 1000.0),
    # GPT-J 6B
    ("gptj", 28, 16384): Preset(5, (3, 8), 21, 19, (16, 20), 20, 0.5, 0.75),
    # LLaMA-2-7B
    ("llama", 32, 11008): Preset(5, (4, 8), 21, 22, (19, 23)),
    # LLaMA-3-8B
    ("llama", 32, 14336): Preset(5, (4, 8), 21, 22, (19, 23), memit_clamp=0.75, memit_rate=0.1),
    # Mistral-7B
    ("mistral", 32, 14336): Preset(5, (4, 8), 21, 23, (19, 23)),
    # Qwen2.5-7B
    ("qwen2", 28, 18944): Preset(5, (4, 8), 27, 6, (15, 19), alphaedit_l2=1.0),
}

# medians over the models above, Mistral-7B aside, of layer / number of blocks
ROME_DEPTH, MEMIT_DEPTH, TUNED_DEPTH = 0.18, 0.29, 0.66
# of LocFT-BF over LLaMA-3-8B (22), Mistral-7B (23) and Qwen2.5-7B (6); of CrispEdit's last block over the same (23, 23, 19)
LOCFT_DEPTH, CRISP_DEPTH = 0.69, 0.72
WINDOW = 5
# median of lambda / width of a key: k^T C^-1 k, which lambda is weighed against, is that width in the mean
MOMENT_WEIGHT = 1.05


def preset_for(model: PreTrainedModel) -> Preset:
    """Settings for a model, which is told by its family and size.

    For a model that is not in the table: the settings of LLaMA-2-7B, and layers by depth, at the median of the table's
    models: with n blocks, ROME, R-ROME and EMMET edit block round(0.18 n), MEMIT, AlphaEdit and PMET the five blocks up to
    round(0.29 n), FT-L and FT-M block round(0.66 n), LocFT-BF block round(0.69 n), CrispEdit the five blocks up to round(0.72 n) (the
    medians for these two are over the models that they publish). MEMIT's lambda is 1.05 times the width of a key, the median as well.
    """
    known = PRESETS.get(signature(model))
    if known is not None:
        return known
    return Preset(
        _at_depth(model, ROME_DEPTH),
        _window_to(_at_depth(model, MEMIT_DEPTH)),
        _at_depth(model, TUNED_DEPTH),
        _at_depth(model, LOCFT_DEPTH),
        _window_to(_at_depth(model, CRISP_DEPTH)),
        memit_weight=round(MOMENT_WEIGHT * edit_site(model, 0).in_features),
    )


def _at_depth(model: PreTrainedModel, depth: float) -> int:
    """The block at a share of all blocks; the last one of a model that is too small to have it."""
    count = len(blocks(model))
    return min(count - 1, round(depth * count))


def _window_to(last: int) -> tuple[int, int]:
    """First and last block of a window that ends at a block."""
    return max(0, last - WINDOW + 1), last


# out-projections that the public code of UltraEdit, or of StableEdit, edits for zsRE
ULTRAEDIT_LAYERS: dict[tuple[str, int, int], Sequence[int]] = {
    # GPT-J 6B
    ("gptj", 28, 16384): range(18, 27),
    # LLaMA-3-8B: StableEdit's, since UltraEdit edits other matrices there (gate_proj of 11-15, up_proj of 18-24)
    ("llama", 32, 14336): (11, 12, 22, 23, 28, 29, 30),
    # Mistral-7B
    ("mistral", 32, 14336): (29, 30),
    # Phi-4
    ("phi3", 40, 17920): range(30, 39),
    # Qwen2.5-7B: StableEdit's, since UltraEdit edits other matrices there (gate_proj and up_proj of 18-26)
    ("qwen2", 28, 18944): (*range(8, 15), *range(18, 26)),
}
# the learning rates that are published with these layers; StableEdit's for GPT-J, 2e-6, is with others
ULTRAEDIT_RATE, ULTRAEDIT_RATES = 1e-6, {("qwen2", 28, 18944): 2e-6}
# median of the middle of these layers / number of blocks, Qwen2.5-7B aside
ULTRAEDIT_DEPTH = 0.82


def ultraedit_layers(model: PreTrainedModel) -> list[int]:
    """The layers whose out-projections UltraEdit edits: published ones, or of n blocks the block round(0.82 n)."""
    known = ULTRAEDIT_LAYERS.get(signature(model))
    return [_at_depth(model, ULTRAEDIT_DEPTH)] if known is None else list(known)


def published_ultraedit_rate(model: PreTrainedModel) -> float | None:
    """UltraEdit's learning rate for a model, if it is published."""
    known = signature(model)
    return ULTRAEDIT_RATES.get(known, ULTRAEDIT_RATE) if known in ULTRAEDIT_LAYERS else None
