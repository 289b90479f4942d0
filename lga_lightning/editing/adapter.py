"""Edits on disk: a PEFT LoRA adapter, or, for dense edits, the changes of the matrices alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning._version import __version__
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.exceptions import DataError
from lga_lightning.models.architecture import EditSite, edit_site
from lga_lightning.utils.io import write_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOTE = "lga.json"
FACTORS = "adapter_model.safetensors"
MATRICES = "delta.safetensors"
PREFIX = "base_model.model."


def save_delta(
    delta: WeightDelta,
    folder: Path,
    model: PreTrainedModel,
    base: str,
    note: Mapping[str, Any] | None = None,
    readme: str = "",
    overwrite: bool = False,
) -> None:
    """Write an edit as a folder that ``PeftModel.from_pretrained(model, folder)`` reads; it appears whole or not at all.

    Factors are written in float32. An edit of which some block is dense is written as ``delta.safetensors`` with the changes
    [d_out, d_in] of its matrices, which PEFT does not read: :func:`load_delta` does.

    Args:
        delta: The edit.
        folder: Where the folder is to appear.
        model: The unedited model: in ``lga.json`` stands what the edited matrices were.
        base: Its name, for those who load the adapter.
        note: More to put into ``lga.json``.
        readme: Text of ``README.md``.
        overwrite: Replace a folder that is there.

    Raises:
        SettingError: If the folder is there and is not to be overwritten.
    """
    from safetensors.torch import save_file

    compact = delta.compact()
    sites = {layer: edit_site(model, layer) for layer in sorted(compact.factors)}
    content = {
        "lga_lightning": __version__,
        "base_model": base,
        **(note or {}),
        "edited": {str(layer): {"module": site.name, "weight": _digest(site)} for layer, site in sites.items()},
    }

    def write(scratch: Path) -> None:
        if compact.is_dense:
            save_file({f"{s.name}.weight": _plain(compact.matrix(n)) for n, s in sites.items()}, scratch / MATRICES)
        else:
            _config(compact, sites, base).save_pretrained(str(scratch))
            tensors = {}
            for layer, site in sites.items():
                for name, factor in zip("BA", compact.factors[layer], strict=True):
                    if factor is not None:
                        tensors[f"{PREFIX}{site.name}.lora_{name}.weight"] = _plain(factor)
            save_file(tensors, scratch / FACTORS, metadata={"format": "pt"})
        write_json(scratch / NOTE, content)
        (scratch / "README.md").write_text(readme, encoding="utf-8")

    write_folder(folder, write, overwrite)


def load_delta(folder: Path, model: PreTrainedModel | None = None) -> WeightDelta:
    """Read what :func:`save_delta` wrote.

    Args:
        folder: The folder.
        model: The model that is to be edited. An edit of other weights is refused; without a model nothing is checked.

    Raises:
        DataError: If it is no such folder, it is broken, or it was made for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        modules = {int(layer): entry["module"] for layer, entry in note["edited"].items()}
        if (folder / MATRICES).is_file():
            matrices = load_file(folder / MATRICES)
            delta = WeightDelta({layer: (None, matrices[f"{module}.weight"]) for layer, module in modules.items()})
        else:
            tensors = load_file(folder / FACTORS)
            named = {layer: f"{PREFIX}{module}.lora_" for layer, module in modules.items()}
            delta = WeightDelta(
                {n: (tensors[f"{name}B.weight"], tensors[f"{name}A.weight"]) for n, name in named.items()}
            )
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{str(folder)!r} is not an edit that lga-lightning wrote, or it is broken ({type(error).__name__}: {error}). It must "
            f"hold {NOTE}, and {FACTORS} or {MATRICES}."
        ) from error
    if model is not None:
        _check_base(folder, note, model)
    return delta


def _check_base(folder: Path, note: Mapping[str, Any], model: PreTrainedModel) -> None:
    for layer, entry in note["edited"].items():
        site = edit_site(model, int(layer))
        if site.name != entry["module"] or (site.weight.is_floating_point() and _digest(site) != entry["weight"]):
            raise DataError(
                f"The edit in {str(folder)!r} was made for another base model ({note['base_model']!r}): the weight of "
                f"{entry['module']} there is not that of {site.name} here. Load the model that it was made for, without any "
                "edit in its weights."
            )


def _config(delta: WeightDelta, sites: Mapping[int, EditSite], base: str) -> Any:
    from peft import LoraConfig

    ranks = {site.name: delta.ranks[layer] for layer, site in sites.items()}
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        target_modules=sorted(ranks),
        rank_pattern=ranks,
        alpha_pattern=ranks,  # alpha / r = 1
        fan_in_fan_out=any(site.transposed for site in sites.values()),
    )


def _digest(site: EditSite) -> str:
    """Of a weight, the same whether it was loaded in bfloat16 or float32."""
    weight = site.weight.detach().cpu().to(torch.bfloat16).contiguous()
    return hashlib.sha256(weight.view(torch.uint8).numpy().data).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous()
