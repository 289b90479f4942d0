"""Edits on disk: a PEFT LoRA adapter, or, for dense edits, the changes of the matrices alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from lga_lightning._version import __version__
from lga_lightning.editing.expert_factors import join_experts, take_expert
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate, Update
from lga_lightning.exceptions import DataError, ModelError
from lga_lightning.models.architecture import EditSite, edit_site, named_site
from lga_lightning.models.experts import DOWN, ExpertMatrix, is_fused
from lga_lightning.utils.io import write_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOTE = "lga.json"
FACTORS = "adapter_model.safetensors"
MATRICES = "delta.safetensors"
PREFIX = "base_model.model."


def save_updates(
    updates: Mapping[str, Update],
    folder: Path,
    model: PreTrainedModel,
    base: str,
    note: Mapping[str, Any] | None = None,
    readme: str = "",
    overwrite: bool = False,
) -> None:
    """Write an edit as a folder that ``PeftModel.from_pretrained(model, folder)`` reads; it appears whole or not at all.

    Factors are written in float32. An edit of which some update is dense is written as ``delta.safetensors`` with the
    changes [d_out, d_in] of all its matrices, which PEFT does not read: :func:`load_updates` does.

    Args:
        updates: The edit: an update for each module, by its qualified name.
        folder: Folder that is to appear.
        model: The unedited model: in ``lga.json`` stands what the edited matrices were.
        base: Name of the model, for those who load the adapter.
        note: More to put into ``lga.json``.
        readme: Text of ``README.md``.
        overwrite: Whether to replace a folder that is there.

    Raises:
        SettingError: If the folder is there and is not to be overwritten.
        ModelError: If the model lacks one of the modules.
    """
    from safetensors.torch import save_file

    sites = sorted((named_site(model, name) for name in updates), key=lambda site: (site.layer, site.name))
    compact = {site.name: updates[site.name].compact() for site in sites}
    content = {
        "lga_lightning": __version__,
        "base_model": base,
        **(note or {}),
        "edited": {_key(model, site): {"module": site.name, "weight": _digest(site)} for site in sites},
    }
    experts = {site.name: site.module for site in sites if isinstance(site.module, ExpertMatrix)}

    def write(scratch: Path) -> None:
        if any(isinstance(update, DenseUpdate) for update in compact.values()):
            matrices = {f"{name}.weight": _plain(update.matrix) for name, update in compact.items()}
            save_file(matrices, scratch / MATRICES)
        else:
            config = _config(compact, sites, model, base)
            config.save_pretrained(str(scratch))
            pairs = {name: update.factors for name, update in compact.items() if name not in experts}
            if getattr(config, "target_parameters", None):  # which older versions of PEFT do not know
                pairs = {name: _with_rank(b, a, config.r) for name, (b, a) in pairs.items()}
            for fused in dict.fromkeys(map(_fused, experts)):
                mine = {matrix: compact[name] for name, matrix in experts.items() if _fused(name) == fused}
                pairs[fused] = join_experts(mine, config.r)  # type: ignore[arg-type]  # none is dense here
            factors = {
                f"{PREFIX}{name}.lora_{letter}.weight": _plain(factor)
                for name, pair in pairs.items()
                for letter, factor in zip("BA", pair, strict=True)
            }
            save_file(factors, scratch / FACTORS, metadata={"format": "pt"})
        write_json(scratch / NOTE, content)
        (scratch / "README.md").write_text(readme, encoding="utf-8")

    write_folder(folder, write, overwrite)


def load_updates(folder: Path, model: PreTrainedModel | None = None) -> dict[str, Update]:
    """Read what :func:`save_updates` wrote.

    Args:
        folder: The folder.
        model: The model that is to be edited. An edit of other weights is refused; without a model nothing is checked.

    Returns:
        An update for each module, by its qualified name.

    Raises:
        DataError: If it is no such folder, it is broken, or it was made for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    updates: dict[str, Update]
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        base = note["base_model"]
        modules = {entry["module"]: entry["weight"] for entry in note["edited"].values()}
        if (folder / MATRICES).is_file():
            matrices = load_file(folder / MATRICES)
            updates = {module: DenseUpdate(matrices[f"{module}.weight"]) for module in modules}
        else:
            factors = load_file(folder / FACTORS)
            rank = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]
            updates = {module: _read(factors, module, rank) for module in modules}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{str(folder)!r} is not an edit that lga-lightning wrote, or it is broken ({type(error).__name__}: {error}). It must "
            f"hold {NOTE}, and {FACTORS} or {MATRICES}."
        ) from error
    if model is not None:
        for module, digest in modules.items():
            _check_base(folder, base, module, digest, model)
    return updates


def _read(factors: Mapping[str, Tensor], module: str, rank: int) -> LowRankUpdate:
    """A module's update; an expert's is a part of that of its block's experts."""
    fused = _fused(module)
    of_expert = fused != module and f"{PREFIX}{fused}.lora_A.weight" in factors
    b, a = (factors[f"{PREFIX}{fused if of_expert else module}.lora_{letter}.weight"] for letter in "BA")
    return take_expert(b, a, rank, int(module.split(".")[-2])) if of_expert else LowRankUpdate(b, a)


def _with_rank(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B [d_out, r] and A [r, d_in] with zeros up to a rank."""
    more = rank - len(a)
    return functional.pad(b, (0, more)), functional.pad(a, (0, 0, 0, more))


def _fused(name: str) -> str:
    """The name of a block's experts, from that of one expert's out-projection: without the number and ``down_proj``."""
    return name.rsplit(".", 2)[0]


def _check_base(folder: Path, base: str, module: str, digest: str, model: PreTrainedModel) -> None:
    """Refuse a model that lacks a module, or has another weight there."""
    try:
        site = named_site(model, module)
    except ModelError:
        found = "which is not here"
    else:
        if not site.weight.is_floating_point() or _digest(site) == digest:
            return
        found = "whose weight here is another"
    raise DataError(
        f"The edit in {str(folder)!r} was made for another base model ({base!r}): it changes {module}, {found}. Load the model "
        "that it was made for, without any edit in its weights."
    )


def _key(model: PreTrainedModel, site: EditSite) -> str:
    """A module's key in the note: the number of the block for its out-projection, the module's name for all others."""
    with suppress(ModelError):  # a block may have no out-projection that is edited by default
        if site.layer >= 0 and edit_site(model, site.layer).name == site.name:
            return str(site.layer)
    return site.name


def _config(updates: Mapping[str, Update], sites: Sequence[EditSite], model: PreTrainedModel, base: str) -> Any:
    from peft import LoraConfig

    ranks = {name: update.rank for name, update in updates.items()}
    if any(map(is_fused, model.modules())):
        # PEFT takes names that end as an expert's for those of experts, unless they are names of parameters, of one rank
        experts = {site.name for site in sites if isinstance(site.module, ExpertMatrix)}
        parameters = {f"{_fused(name)}.{DOWN}" if name in experts else f"{name}.weight" for name in ranks}
        targets: dict[str, Any] = {"target_modules": [], "target_parameters": sorted(parameters)}
    else:
        targets = {"target_modules": sorted(ranks), "rank_pattern": ranks, "alpha_pattern": ranks}  # alpha / r = 1
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        fan_in_fan_out=any(site.transposed for site in sites),
        **targets,
    )


def _digest(site: EditSite) -> str:
    """Hash of a weight, the same whether it was loaded in bfloat16 or float32."""
    weight = site.weight.detach().cpu().to(torch.bfloat16).contiguous()
    return hashlib.sha256(weight.view(torch.uint8).numpy().data).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous()
