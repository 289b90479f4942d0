"""Settings that papers and toolkits use for models they know, and a rule by depth for all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lga_lightning.models.architecture import blocks, edit_site, signature

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Preset:
    """Settings for one model.

    Attributes:
        rome_layer: Block that ROME and R-ROME edit.
        steps: Of the search for the target value.
        weight_decay: In that search.
        memit_layers: First and last block that MEMIT, AlphaEdit and PMET edit.
        memit_clamp: In their search for the target value.
        memit_rate: Adam's learning rate there.
        memit_weight: lambda, the weight of C.
        alphaedit_l2: L2 of AlphaEdit.
        emmet_weight: lambda of EMMET, which edits ``rome_layer``.
        tuned_layer: Block that FT-L and FT-M edit.
    """

    rome_layer: int
    memit_layers: tuple[int, int]
    tuned_layer: int
    steps: int = 25
    weight_decay: float = 1e-3
    memit_clamp: float = 4.0
    memit_rate: float = 0.5
    memit_weight: float = 15000.0
    alphaedit_l2: float = 10.0
    emmet_weight: float = 1.0


PRESETS = {
    "gpt2-xl": Preset(17, (13, 17), 0, 20, 0.5, 0.75, 0.5, 20000.0, 10.0, 1000.0),
    "gpt-j": Preset(5, (3, 8), 21, 20, 0.5, 0.75),
    "llama2-7b": Preset(5, (4, 8), 21),
    "llama3-8b": Preset(5, (4, 8), 21, memit_clamp=0.75, memit_rate=0.1),
    "qwen2.5-7b": Preset(5, (4, 8), 27, alphaedit_l2=1.0),
}

# medians over the models above of layer / number of blocks
ROME_DEPTH, MEMIT_DEPTH, TUNED_DEPTH = 0.18, 0.29, 0.66
WINDOW = 5
# median of lambda / width of a key: k^T C^-1 k, which lambda is weighed against, is that width in the mean
MOMENT_WEIGHT = 1.05


def preset_for(model: PreTrainedModel) -> Preset:
    """Settings for a model.

    For a model that is not in the table: the settings of LLaMA-2-7B, and layers by depth, at the median of the table's
    models: with n blocks, ROME, R-ROME and EMMET edit block round(0.18 n), MEMIT, AlphaEdit and PMET the five blocks up to
    round(0.29 n), FT-L and FT-M block round(0.66 n). MEMIT's lambda is 1.05 times the width of a key, the median as well.
    """
    name = preset_name(model)
    if name is not None:
        return PRESETS[name]
    count = len(blocks(model))
    last = round(MEMIT_DEPTH * count)
    return Preset(
        round(ROME_DEPTH * count),
        (max(0, last - WINDOW + 1), last),
        round(TUNED_DEPTH * count),
        memit_weight=round(MOMENT_WEIGHT * edit_site(model, 0).in_features),
    )


# (model type, number of blocks, width of the MLP) of models whose settings were published
_KNOWN_SIZES = {
    ("gpt2", 48, 6400): "gpt2-xl",
    ("gptj", 28, 16384): "gpt-j",
    ("llama", 32, 11008): "llama2-7b",
    ("llama", 32, 14336): "llama3-8b",
    ("qwen2", 28, 18944): "qwen2.5-7b",
}


def preset_name(model: PreTrainedModel) -> str | None:
    """Under which name the editing papers and toolkits have settings for a model: ``gpt2-xl``, ``llama2-7b``, ...

    Told by its type and size, so that fine-tuned and renamed ones are found. None for all others.
    """
    return _KNOWN_SIZES.get(signature(model))
