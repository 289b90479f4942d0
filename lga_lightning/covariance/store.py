"""Second moments on disk: one file a layer, keyed by everything that they are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lga_lightning.covariance.accumulator import CovarianceAccumulator
from lga_lightning.covariance.batches import SAMPLED
from lga_lightning.data.corpus import BUNDLED, text_source
from lga_lightning.data.sources import source_fingerprint, source_name
from lga_lightning.exceptions import DataError
from lga_lightning.models.architecture import longest_text
from lga_lightning.models.chat import plain
from lga_lightning.models.loading import cache_folder
from lga_lightning.models.weights import weights_hash
from lga_lightning.utils.io import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class CovarianceKey:
    """Everything that second moments are made of, the layer apart.

    Attributes:
        model: Name of the model, as its config has it.
        revision: Commit of the model on the Hub, where it has one.
        weights: SHA-256 of all weights.
        tokenizer: SHA-256 of the tokenizer.
        dtype: Data type of the weights.
        text: Source of the text: a file's name, a data set's, ``bundled`` (the package's) or ``sampled`` (from the model itself).
        text_hash: SHA-256 of the file, commit of the data set, or the seed of the samples.
        tokens: Number of tokens of the text.
        sequence_length: Number of tokens of the pieces that longer texts are cut into.
    """

    model: str
    revision: str | None
    weights: str
    tokenizer: str
    dtype: str
    text: str
    text_hash: str
    tokens: int
    sequence_length: int

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        source: str,
        tokens: int,
        sequence_length: int,
    ) -> CovarianceKey:
        """The key for a model as it is now."""
        return cls(
            model=Path(model.config._name_or_path).name,
            revision=getattr(model.config, "_commit_hash", None),
            weights=weights_hash(model),
            tokenizer=hashlib.sha256(plain(tokenizer).backend_tokenizer.to_str().encode()).hexdigest(),
            dtype=str(model.dtype),
            text=source if source in (SAMPLED, BUNDLED) else source_name(source),
            text_hash="seed 0" if source == SAMPLED else source_fingerprint(text_source(source)),
            tokens=tokens,
            sequence_length=longest_text(model, sequence_length),
        )

    @property
    def folder(self) -> Path:
        """Folder in the cache, with one file a layer."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]
        return cache_folder() / "second-moments" / f"{self.model}-{digest}"

    def differences(self, other: CovarianceKey, fields: Sequence[str] = ()) -> str:
        """What is different in another key, in words; "" if nothing is.

        Args:
            other: The other key.
            fields: Fields that are compared; all by default.
        """
        mine, theirs = asdict(self), asdict(other)
        names = [name for name in fields or mine if mine[name] != theirs[name]]
        return ", ".join(f"{name} ({theirs[name]!s:.24}, not {mine[name]!s:.24})" for name in names)


def save_covariances(moments: CovarianceAccumulator, key: CovarianceKey, folder: Path) -> None:
    """Write one file a layer, whole, with what it was made from.

    Args:
        moments: Sums over all tokens.
        key: Everything that they are made of.
        folder: Folder for the files.
    """
    for layer, covariance in moments.means().items():
        save_layer(folder / f"{layer}.safetensors", layer, key, {"moment": covariance}, int(moments.tokens))


def load_covariance(folder: Path, layer: int, key: CovarianceKey, fields: Sequence[str] = ()) -> Tensor | None:
    """C of one layer, [d_in, d_in] in float64; None if there is no file of that layer.

    Args:
        folder: Folder that :func:`save_covariances` wrote to.
        layer: Index of the block.
        key: Everything that it must have been made of.
        fields: Fields of the key that must agree; all by default.

    Raises:
        DataError: If the file is broken, or was made from something else.
    """
    found = load_layer(folder / f"{layer}.safetensors", layer, key, ("moment",), fields)
    return None if found is None else found[0]["moment"]


def save_layer(path: Path, layer: int, key: CovarianceKey, moments: Mapping[str, Tensor], tokens: int) -> None:
    """Write moments of one layer, in float32, with what they were made from.

    Args:
        path: Where the file is to appear.
        layer: Index of the block.
        key: Everything that they are made of.
        moments: The moments, by name.
        tokens: Number of tokens that they are means over.
    """
    from safetensors.torch import save_file

    note = {"key": json.dumps(asdict(key)), "layer": str(layer), "counted": str(tokens)}
    tensors = {name: moment.float().cpu().contiguous() for name, moment in moments.items()}
    write_whole(path, lambda scratch: save_file(tensors, scratch, metadata=note))


def load_layer(
    path: Path, layer: int, key: CovarianceKey, names: Sequence[str], fields: Sequence[str] = ()
) -> tuple[dict[str, Tensor], int] | None:
    """Read what :func:`save_layer` wrote; None if there is no file.

    Args:
        path: The file.
        layer: Index of the block.
        key: Everything that it must have been made of.
        names: Names of the moments.
        fields: Fields of the key that must agree; all by default.

    Returns:
        The moments by name, in float64, and the number of tokens that they are means over.

    Raises:
        DataError: If the file is broken, or was made from something else.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            note, moments = file.metadata() or {}, {name: file.get_tensor(name).double() for name in names}
        made = CovarianceKey(**json.loads(note["key"]))
        held, counted = int(note["layer"]), int(note["counted"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} is not a second moment that `lga moments` wrote, or it is broken ({error}). Delete it, and it will "
            "be made anew."
        ) from error
    if held != layer:
        raise DataError(f"{str(path)!r} holds the second moment of block {held}: it was renamed.")
    if differences := key.differences(made, fields):
        raise DataError(
            f"The second moment in {str(path)!r} was made from something else: {differences}. Run `lga moments` for this model."
        )
    return moments, counted
