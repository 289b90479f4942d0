"""Edits on disk: a PEFT LoRA adapter, or, for dense edits, the changes of the matrices alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning._version import __version__
from lga_lightning.editing.facts import NO_FACTS, Facts
from lga_lightning.editing.facts_file import FACTS, facts_to_json
from lga_lightning.editing.in_place import unedited_weight
from lga_lightning.editing.peft_layout import PREFIX, from_peft, name_within, plain_name, to_peft
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate, RankError, Update
from lga_lightning.exceptions import DataError, ModelError
from lga_lightning.models.architecture import edit_site, named_site
from lga_lightning.models.experts import ExpertMatrix, is_fused
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.checksums import file_checksum, was_changed, with_checksum
from lga_lightning.utils.io import user_path, write_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOTE = "lga.json"
FACTORS = "adapter_model.safetensors"
MATRICES = "delta.safetensors"
FILES = "files"  # in the note: the SHA-256 of each
CONFIG = "adapter_config.json"


def save_updates(
    updates: Mapping[str, Update],
    folder: Path,
    model: PreTrainedModel,
    base: str,
    note: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    facts: Facts = NO_FACTS,
    rank: int | None = None,
    more: Callable[[Path], None] = lambda folder: None,
    writes: bool = True,
) -> None:
    """Write an edit as a folder that ``PeftModel.from_pretrained(model, folder)`` reads; it appears whole or not at all.

    Factors are written in float32. An edit of which some update is dense is written as ``delta.safetensors`` with the
    changes [d_out, d_in] of all its matrices, which PEFT does not read: :func:`load_updates` does.

    Args:
        updates: The edit: an update for each module, by its qualified name.
        folder: Folder that is to appear.
        model: The unedited model: in ``lga.json`` stands what the edited matrices were. Edits that are applied for the time being do not
            count, those that were merged do. Of a model within PEFT the names are those that it has without.
        base: Name of the model, for those who load the adapter.
        note: More to put into ``lga.json``.
        overwrite: Whether to replace a folder that is there.
        facts: The facts that the edit holds, for ``facts.json``.
        rank: Rank that all factors are filled up to, with zeros; None writes each with the rank that it has.
        more: Puts other files into the folder before it appears, a ``README.md``, say.
        writes: Whether this process writes. With a model in shards all processes call this, and one of them writes.

    Raises:
        SettingError: If the folder is there and is not to be overwritten, or some update has a higher rank.
        ModelError: If the model lacks one of the modules, or one is a block's experts side by side; if the edit has none, or entries that
            are not finite.
    """
    sites = sorted((edited_site(model, name) for name in updates), key=lambda site: (site.layer, site.name))
    name_of = partial(plain_name, model)
    content = {
        "lga_lightning": __version__,
        "base_model": base,
        "dtype": str(model.dtype).removeprefix("torch."),
        **(note or {}),
        "edited": {_key(model, site): _entry(model, site) for site in sites},
        "transposed": any(site.transposed for site in sites),
        "fused": any(map(is_fused, model.modules())),
        "rank": rank,
    }
    if writes:
        named = {name_of(site.name): updates[site.name] for site in sites}
        _write(named, folder, content, overwrite, facts.renamed(name_of), more)


def edited_site(model: PreTrainedModel, name: str) -> EditSite:
    """A module that an edit names; see :func:`~lga_lightning.models.architecture.named_site`.

    Args:
        model: A language model.
        name: Qualified name of the module.

    Raises:
        ModelError: If there is none, or it is a block's experts side by side, of which each is edited by itself.
    """
    site = named_site(model, name)
    if site.parts:
        raise ModelError(
            f"{name} are experts side by side, and an edit is of each by itself. Make it by `WeightDelta.at(edit_site(model, layer), update)`, "
            f"which takes the update apart, or name the experts: {site.parts[0]}."
        )
    return site


def check_finite(updates: Mapping[str, Update]) -> None:
    """Refuse an edit that would break the model.

    Args:
        updates: An update for each module, by its qualified name.

    Raises:
        ModelError: If one has entries that are NaN or infinite.
    """
    for name, update in updates.items():
        if not all(factor.isfinite().all() for factor in update.factors):
            raise ModelError(
                f"The edit of {name} has entries that are NaN or infinite, so it was not written: it would break the model. The search or the "
                "training that made it went astray; lower the learning rate, or take --model.dtype float32."
            )


def check_any(updates: Mapping[str, Update]) -> None:
    """Refuse an edit that PEFT could not read.

    Args:
        updates: An update for each module, by its qualified name.

    Raises:
        ModelError: If there is none.
    """
    if not updates:
        raise ModelError(
            "The edit changes no module, so there is nothing to write. Either the model says the answers by itself, or what was edited does not "
            "reach them; name another layer."
        )


def resave_updates(
    updates: Mapping[str, Update],
    source: Path,
    folder: Path,
    note: Mapping[str, Any],
    facts: Facts,
    more: Callable[[Path], None],
) -> None:
    """Write what is left of an edit that was read from a folder, instead of what is there; no model is needed.

    Args:
        updates: The edit: an update for each module, by its qualified name.
        source: The folder that it comes from.
        folder: Folder that is to appear; it may be the same.
        note: The source's, with what is to change in it; see :func:`read_note`.
        facts: The facts that are left.
        more: Puts other files into the folder before it appears.

    Raises:
        SettingError: If something is there that is no folder.
        ModelError: If nothing is left, or a module is changed that was not before.
    """
    content = {**note, "edited": {key: entry for key, entry in note["edited"].items() if entry["module"] in updates}}
    if "transposed" not in content and (source / CONFIG).is_file():
        content["transposed"] = json.loads((source / CONFIG).read_text(encoding="utf-8"))["fan_in_fan_out"]
    names = [entry["module"] for entry in content["edited"].values()]
    if new := sorted(updates.keys() - names):
        raise ModelError(
            f"Edited again, the facts that stay change {new[0]}, which the adapter in {str(source)!r} does not: they are routed to other experts "
            "without those that are taken out. Edit the facts that stay anew instead (`lga facts` lists them)."
        )
    _write({name: updates[name] for name in names}, folder, content, True, facts, more)


def _write(
    updates: Mapping[str, Update],
    folder: Path,
    content: dict[str, Any],
    overwrite: bool,
    facts: Facts,
    more: Callable[[Path], None],
) -> None:
    from safetensors.torch import save_file

    check_any(updates)
    check_finite(updates)
    compact = {name: update.compact() for name, update in updates.items()}
    facts = facts.folded([name for name, update in compact.items() if update is not updates[name]])
    dense = any(isinstance(update, DenseUpdate) for update in compact.values())
    for entry in content["edited"].values():
        entry["rank"] = compact[entry["module"]].rank

    def write(scratch: Path) -> None:
        if dense:
            matrices = {f"{name}.weight": _plain(update.matrix) for name, update in compact.items()}
            save_file(matrices, scratch / MATRICES)
        else:
            low = {name: update for name, update in compact.items() if isinstance(update, LowRankUpdate)}
            config, pairs = to_peft(low, content)
            config.save_pretrained(str(scratch))
            factors = {
                f"{PREFIX}{name}.lora_{letter}.weight": _plain(factor)
                for name, pair in pairs.items()
                for letter, factor in zip("BA", pair, strict=True)
            }
            save_file(factors, scratch / FACTORS, metadata={"format": "pt"})
        files = {path.name: file_checksum(path) for path in sorted(scratch.glob("*.safetensors"))}
        write_json(scratch / NOTE, with_checksum({**content, FILES: files}))
        write_json(scratch / FACTS, facts_to_json(facts))
        more(scratch)

    write_folder(folder, write, overwrite)


def read_note(folder: Path) -> dict[str, Any]:
    """The content of ``lga.json``.

    Args:
        folder: The folder of an edit.

    Raises:
        DataError: If there is none, or it cannot be read.
    """
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        _ = note["base_model"], [entry["module"] for entry in note["edited"].values()]
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _broken(folder, error) from error
    return dict(note)


def load_updates(folder: Path, model: PreTrainedModel | None = None) -> dict[str, Update]:
    """Read what :func:`save_updates` wrote.

    Args:
        folder: The folder.
        model: The model that is to be edited. An edit of other weights is refused; without a model nothing is checked.

    Returns:
        An update for each module, by its qualified name; in a model within PEFT, where that is given.

    Raises:
        DataError: If it is no such folder, it is broken or was changed, or it was made for another model.
    """
    from safetensors import SafetensorError

    folder = user_path(folder)
    try:
        note = read_note(folder)
        base = note["base_model"]
        modules = {
            entry["module"]: ((entry["weight"], entry.get("weight_in_half")), entry.get("packing"))
            for entry in note["edited"].values()
        }
        ranks = {entry["module"]: entry.get("rank") for entry in note["edited"].values()}  # behind it there is padding
        changed = [NOTE] if was_changed(note) else []
        changed += [name for name, checksum in note.get(FILES, {}).items() if file_checksum(folder / name) != checksum]
        if changed:
            raise ValueError(f"{changed[0]} is not as it was written")
        updates = _updates(folder, ranks)
    except DataError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError, SafetensorError) as error:
        raise _broken(folder, error) from error
    if model is not None:
        for module, (digests, packing) in modules.items():
            here = name_within(model, module)
            _check_base(folder, base, here, digests, packing, model)
            site = named_site(model, here)
            if updates[module].shape != (site.out_features, site.in_features):
                raise DataError(
                    f"The edit in {str(folder)!r} changes {module} by a matrix of {updates[module].shape}, and the module's is "
                    f"{(site.out_features, site.in_features)}: the files are not as they were written. Make the edit anew."
                )
        updates = {name_within(model, module): update for module, update in updates.items()}
    return updates


def _updates(folder: Path, ranks: Mapping[str, int | None]) -> dict[str, Update]:
    """The updates of some modules, out of the one file or the other, each with its rank in the first."""
    from safetensors.torch import load_file

    dense = (folder / MATRICES).is_file()
    tensors = load_file(folder / (MATRICES if dense else FACTORS))
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise ValueError(f"{name} holds what is no finite number")
    if dense:
        return {module: DenseUpdate(tensors[f"{module}.weight"]) for module in ranks}
    room = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["r"]
    return {module: from_peft(tensors, module, rank, room) for module, rank in ranks.items()}


def _check_base(
    folder: Path,
    base: str,
    module: str,
    digests: tuple[str, str | None],
    packing: str | None,
    model: PreTrainedModel,
) -> None:
    """Refuse a model that lacks a module, or has another weight there; packed in another way, there is no telling.

    One of the two may be in float16, so the weight is compared as it is and as it is there, with the noted one as it was and was there.
    """
    try:
        site = named_site(model, module)
    except ModelError:
        found = "which is not here"
    else:
        weight = site.whole_weight().detach().cpu()
        if site.packing != packing or _digest(weight) in digests or _digest(weight, torch.float16) == digests[0]:
            return
        found = "whose weight here is another"
    raise DataError(
        f"The edit in {str(folder)!r} was made for another base model ({base!r}): it changes {module}, {found}. Load the model "
        "that it was made for, without any edit in its weights and, if it was or is in float16, in the dtype that it was made in."
    )


def _entry(model: PreTrainedModel, site: EditSite) -> dict[str, Any]:
    """What the note says of a module: its name, hashes of its weight, what that is packed in, and of how many experts it is one."""
    packing = {} if site.packing is None else {"packing": site.packing}
    experts = {"experts": site.module.count} if isinstance(site.module, ExpertMatrix) else {}
    weight = unedited_weight(model, site).detach().cpu()
    digests = {"weight": _digest(weight), "weight_in_half": _digest(weight, torch.float16)}
    return {"module": plain_name(model, site.name), **digests, **packing, **experts}


def _key(model: PreTrainedModel, site: EditSite) -> str:
    """A module's key in the note: the number of the block for its out-projection, the module's name for all others."""
    with suppress(ModelError):  # a block may have no out-projection that is edited by default
        if site.layer >= 0 and edit_site(model, site.layer).name == site.name:
            return str(site.layer)
    return plain_name(model, site.name)


def errors_in_json(errors: Mapping[str, RankError]) -> dict[str, dict[str, float]]:
    """What an edit of a lower rank lacks, for ``lga.json``.

    Args:
        errors: By module, as :meth:`WeightDelta.low_rank` gives it.
    """
    return {
        "relative_error": {name: error.frobenius for name, error in errors.items()},
        "spectral_error": {name: error.spectral for name, error in errors.items()},
    }


def _broken(folder: Path, error: Exception) -> DataError:
    return DataError(
        f"{str(folder)!r} is not an edit that lga-lightning wrote, or it is broken ({type(error).__name__}: {error}). It must "
        f"hold {NOTE}, and {FACTORS} or {MATRICES}."
    )


def _digest(weight: Tensor, through: torch.dtype = torch.bfloat16) -> str:
    """Hash of a weight, the same whether it was loaded in bfloat16 or float32; through float16, the one that it has when loaded in that."""
    weight = weight.to(through).to(torch.bfloat16).contiguous()
    return hashlib.sha256(weight.view(torch.uint8).numpy().data).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    """A tensor of its own for a file: modules may share a factor, and safetensors refuses that."""
    plain = tensor.detach().float().cpu().contiguous()
    return plain.clone() if plain.data_ptr() == tensor.data_ptr() else plain
