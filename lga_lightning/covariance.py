"""Second moments of keys: C = E[k k^T] over the tokens of plain text, for many layers in one pass.

ROME (arXiv 2202.05262), section 3.1: uncentred, over all tokens. What a file was made from stands in it, and nothing else
is taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric

from lga_lightning.chat import plain
from lga_lightning.errors import DataError
from lga_lightning.families import blocks, edit_site, longest_text
from lga_lightning.files import write_whole
from lga_lightning.generation import sample
from lga_lightning.hooks import ends_after, frozen, inputs_seen
from lga_lightning.loading import cache_folder
from lga_lightning.scoring import input_device
from lga_lightning.texts import read_texts, text_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLED = "sampled"
PIECES = 32  # a batch


@dataclass(frozen=True)
class MomentKey:
    """Everything that second moments are made of, the layer apart.

    Attributes:
        model: Name of the model, as its config has it.
        revision: Its commit on the Hub, where it has one.
        weights: SHA-256 of all weights.
        tokenizer: SHA-256 of the tokenizer.
        dtype: Of the weights.
        text: Where the text comes from: a file's name, a data set's, or ``sampled`` (from the model itself).
        text_hash: SHA-256 of the file, commit of the data set, or the seed of the samples.
        tokens: How many tokens of it.
        sequence_length: Longer texts are cut into pieces of so many tokens.
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
    ) -> MomentKey:
        """The key for a model as it is now."""
        digest = hashlib.sha256()
        for name, parameter in sorted(model.named_parameters()):
            digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        sampled = source == SAMPLED
        return cls(
            model=Path(model.config._name_or_path).name,
            revision=getattr(model.config, "_commit_hash", None),
            weights=digest.hexdigest(),
            tokenizer=hashlib.sha256(plain(tokenizer).backend_tokenizer.to_str().encode()).hexdigest(),
            dtype=str(model.dtype),
            text=source if sampled else Path(source).name,
            text_hash="seed 0" if sampled else text_fingerprint(source),
            tokens=tokens,
            sequence_length=longest_text(model, sequence_length),
        )

    @property
    def folder(self) -> Path:
        """Where they are kept, one file a layer."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]
        return cache_folder() / "second-moments" / f"{self.model}-{digest}"

    def differences(self, other: MomentKey, fields: Sequence[str] = ()) -> str:
        """What is different, in words; "" if nothing is."""
        mine, theirs = asdict(self), asdict(other)
        names = [name for name in fields or mine if mine[name] != theirs[name]]
        return ", ".join(f"{name} ({theirs[name]!s:.24}, not {mine[name]!s:.24})" for name in names)


class SecondMoments(Metric):
    """Sums of k k^T by layer, and the number of tokens; the same on one process and on several.

    Products are taken in float32 over blocks of 1,024 tokens, whose sums are added up in float64.

    Args:
        model: A causal language model, for the widths.
        layers: The blocks.
    """

    full_state_update = False
    tokens: Tensor

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = sorted(layers)
        for layer in self.layers:
            width = edit_site(model, layer).in_features
            self.add_state(f"sum_{layer}", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, model: PreTrainedModel, pieces: Sequence[Sequence[int]]) -> None:  # type: ignore[override]
        """Run pieces of text through the model, as far as the last of the layers.

        Args:
            model: The model.
            pieces: Token ids of up to ``PIECES`` texts; none is fine.
        """
        if not pieces:
            return
        width = max(map(len, pieces))
        device = input_device(model)
        ids = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in pieces], device=device)
        real = torch.tensor([[column < len(piece) for column in range(width)] for piece in pieces])
        modules = [edit_site(model, layer).module for layer in self.layers]
        with (
            torch.no_grad(),
            frozen(model),
            inputs_seen(modules, lambda number, inputs: self._add(self.layers[number], inputs, real)),
            ends_after(blocks(model)[self.layers[-1]]),
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
            block = block.double() if block.dtype == torch.float64 else block.float()
            total += (block.T @ block).to(total)


def token_budget(model: PreTrainedModel, layer: int) -> int:
    """From how many tokens second moments are taken where nobody says: 20 times the width of a key.

    Few enough to be quick, and many enough for an inverse: a sample covariance of n tokens in d dimensions errs by about
    sqrt(d / n).
    """
    return 20 * edit_site(model, layer).in_features


def batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    tokens: int,
    sequence_length: int,
    skip: int = 0,
) -> Iterator[list[list[int]]]:
    """Pieces of text of so many tokens in all, always the same, ``PIECES`` at a time, those of like length together.

    Args:
        model: The model, which ``sampled`` takes the text from.
        tokenizer: Its tokenizer.
        source: As :func:`~lga_lightning.texts.read_texts` takes it, or ``sampled``.
        tokens: How many tokens in all; fewer if the text has fewer.
        sequence_length: Tokens a piece, at most.
        skip: Leave out so many batches (a resumed run).
    """
    sequence_length = longest_text(model, sequence_length)
    if source == SAMPLED:
        for number in range(-(-tokens // (PIECES * sequence_length))):
            if number >= skip:
                left = tokens - number * PIECES * sequence_length
                rows = sample(model, tokenizer, PIECES, sequence_length, seed=number)
                yield [row[: max(0, left - i * sequence_length)] for i, row in enumerate(rows)]
        return
    waiting: list[list[int]] = []
    number = 0
    for piece in _pieces(tokenizer, source, tokens, sequence_length):
        waiting.append(piece)
        if len(waiting) == 16 * PIECES:
            for batch in _by_length(waiting):
                if number >= skip:
                    yield batch
                number += 1
            waiting = []
    for batch in _by_length(waiting):
        if number >= skip:
            yield batch
        number += 1


def save_moments(moments: SecondMoments, key: MomentKey, folder: Path) -> None:
    """Write one file a layer, whole, with what they were made from."""
    from safetensors.torch import save_file

    for layer, moment in moments.means().items():
        note = {"key": json.dumps(asdict(key)), "layer": str(layer), "counted": str(int(moments.tokens))}

        def write(scratch: Path, moment: Tensor = moment, note: dict[str, str] = note) -> None:
            save_file({"moment": moment.float().cpu().contiguous()}, scratch, metadata=note)

        write_whole(folder / f"{layer}.safetensors", write)


def load_moment(folder: Path, layer: int, key: MomentKey, fields: Sequence[str] = ()) -> Tensor | None:
    """C of one layer, [d_in, d_in] in float64; None if there is no file of that layer.

    Args:
        folder: Where :func:`save_moments` wrote.
        layer: The block.
        key: What it must have been made from.
        fields: Which fields of the key must agree; all by default.

    Raises:
        DataError: If the file is broken, or was made from something else.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / f"{layer}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            note, moment = file.metadata() or {}, file.get_tensor("moment").double()
        made = MomentKey(**json.loads(note["key"]))
        if int(note["layer"]) != layer:
            raise DataError(f"{str(path)!r} holds the second moment of block {note['layer']}: it was renamed.")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{str(path)!r} is not a second moment that `lga moments` wrote, or it is broken ({error}). Delete it, and it will "
            "be made anew."
        ) from error
    if differences := key.differences(made, fields):
        raise DataError(
            f"The second moment in {str(path)!r} was made from something else: {differences}. Run `lga moments` for this model."
        )
    return moment


def _pieces(tokenizer: PreTrainedTokenizerBase, source: str, tokens: int, sequence_length: int) -> Iterator[list[int]]:
    left = tokens
    for text in read_texts(source):
        ids = plain(tokenizer)(text, verbose=False)["input_ids"]
        for start in range(0, len(ids), sequence_length):
            piece = ids[start : start + sequence_length][:left]
            left -= len(piece)
            if piece:
                yield piece
            if left <= 0:
                return


def _by_length(pieces: list[list[int]]) -> Iterator[list[list[int]]]:
    ordered = sorted(pieces, key=len)
    return (ordered[start : start + PIECES] for start in range(0, len(ordered), PIECES))
