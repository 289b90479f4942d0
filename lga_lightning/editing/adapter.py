"""Edits on disk: a PEFT LoRA adapter, or, for dense edits, the changes of the matrices alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning._version import __version__
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate, Update
from lga_lightning.exceptions import DataError, ModelError
from lga_lightning.models.architecture import EditSite, edit_site, named_site
from lga_lightning.utils.checksums import file_checksum, was_changed, with_checksum
from lga_lightning.utils.io import write_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOTE = "lga.json"
FACTORS = "adapter_model.safetensors"
MATRICES = "delta.safetensors"
FILES = "files"  # in the note: the SHA-256 of each
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

    def write(scratch: Path) -> None:
        if any(isinstance(update, DenseUpdate) for update in compact.values()):
            matrices = {f"{name}.weight": _plain(update.matrix) for name, update in compact.items()}
            save_file(matrices, scratch / MATRICES)
        else:
            _config(compact, sites, base).save_pretrained(str(scratch))
            factors = {
                f"{PREFIX}{name}.lora_{letter}.weight": _plain(factor)
                for name, update in compact.items()
                for letter, factor in zip("BA", update.factors, strict=True)
            }
            save_file(factors, scratch / FACTORS, metadata={"format": "pt"})
        files = {path.name: file_checksum(path) for path in sorted(scratch.glob("*.safetensors"))}
        write_json(scratch / NOTE, with_checksum({**content, FILES: files}))
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
        DataError: If it is no such folder, it is broken or was changed, or it was made for another model.
    """
    from safetensors import SafetensorError

    folder = Path(folder).expanduser()
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        base = note["base_model"]
        modules = {entry["module"]: entry["weight"] for entry in note["edited"].values()}
        changed = [NOTE] if was_changed(note) else []
        changed += [name for name, checksum in note.get(FILES, {}).items() if file_checksum(folder / name) != checksum]
        if changed:
            raise ValueError(f"{changed[0]} is not as it was written")
        updates = _updates(folder, modules)
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError, SafetensorError) as error:
        raise DataError(
            f"{str(folder)!r} is not an edit that lga-lightning wrote, or it is broken ({type(error).__name__}: {error}). It must "
            f"hold {NOTE}, and {FACTORS} or {MATRICES}."
        ) from error
    if model is not None:
        for module, digest in modules.items():
            _check_base(folder, base, module, digest, model)
            site = named_site(model, module)
            if updates[module].shape != (site.out_features, site.in_features):
                raise DataError(
                    f"The edit in {str(folder)!r} changes {module} by a matrix of {updates[module].shape}, and the module's is "
                    f"{(site.out_features, site.in_features)}: the files are not as they were written. Make the edit anew."
                )
    return updates


def _updates(folder: Path, modules: Iterable[str]) -> dict[str, Update]:
    """The updates of some modules, out of the one file or the other."""
    from safetensors.torch import load_file

    dense = (folder / MATRICES).is_file()
    tensors = load_file(folder / (MATRICES if dense else FACTORS))
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise ValueError(f"{name} holds what is no finite number")
    if dense:
        return {module: DenseUpdate(tensors[f"{module}.weight"]) for module in modules}
    prefixes = {module: f"{PREFIX}{module}.lora_" for module in modules}
    return {
        module: LowRankUpdate(tensors[f"{prefix}B.weight"], tensors[f"{prefix}A.weight"])
        for module, prefix in prefixes.items()
    }


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


def _config(updates: Mapping[str, Update], sites: Sequence[EditSite], base: str) -> Any:
    from peft import LoraConfig

    ranks = {name: update.rank for name, update in updates.items()}
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        target_modules=sorted(ranks),
        rank_pattern=ranks,
        alpha_pattern=ranks,  # alpha / r = 1
        fan_in_fan_out=any(site.transposed for site in sites),
    )


def _digest(site: EditSite) -> str:
    """Hash of a weight, the same whether it was loaded in bfloat16 or float32."""
    weight = site.weight.detach().cpu().to(torch.bfloat16).contiguous()
    return hashlib.sha256(weight.view(torch.uint8).numpy().data).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous()
