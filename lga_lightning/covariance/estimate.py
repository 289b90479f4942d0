"""Estimate moments in this process, or take them from the cache; an estimate of C that was cut off goes on where it was."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lga_lightning.covariance.accumulator import CovarianceAccumulator
from lga_lightning.covariance.batches import SAMPLED, batches, token_budget
from lga_lightning.covariance.curvature import Curvature, curvature_of, encode_pieces
from lga_lightning.covariance.store import CovarianceKey, load_covariance, load_layer, save_covariances, save_layer
from lga_lightning.data.corpus import BUNDLED
from lga_lightning.exceptions import DataError
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.storage import is_sharded, of_any, writes
from lga_lightning.utils.checksums import load_tensors, save_tensors
from lga_lightning.utils.progress import hidden

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SAVE_EVERY = 60.0  # seconds
BACKWARD_ROWS = 4  # pieces of text in a pass whose logits are kept for a backward pass


def find_covariances(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    source: str,
    tokens: int | None = None,
    sequence_length: int = 256,
) -> dict[int, Tensor]:
    """C = E[k k^T] of some layers, [d_in, d_in] in float64: from the cache, else estimated and put there.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Its tokenizer.
        layers: Indices of the blocks; those that are missing are estimated in one pass.
        source: A text, as :func:`~lga_lightning.data.corpus.read_texts` takes it, or ``sampled``.
        tokens: Number of tokens; by default 20 times the width of the widest keys.
        sequence_length: Number of tokens of a piece of text, at most.

    Raises:
        DataError: If there is no text, the cache holds something else, or they are no numbers.
    """
    tokens = tokens or token_budget(model)
    key = CovarianceKey.of(model, tokenizer, source, tokens, sequence_length)
    with _lock(model, key.folder, [key.folder / f"{layer}.safetensors" for layer in layers]):
        found = {layer: load_covariance(key.folder, layer, key) for layer in layers}
        missing = of_any(model, (layer for layer, covariance in found.items() if covariance is None))
        if missing:
            moments = CovarianceAccumulator(model, missing).to(input_device(model))
            done = 0 if is_sharded(model) else restore_partial(moments, key)
            if done:
                log.warning("Going on with the second moments after %d tokens.", int(moments.tokens))
            else:
                log.warning(announcement(key, missing))
            pending = batches(model, tokenizer, source, tokens, sequence_length, done)
            shown = _shown(pending, "Second moments", int(moments.tokens), key, missing)
            for number, batch in enumerate(shown, start=done + 1):
                moments.update(model, batch)
                if not is_sharded(model):
                    save_partial_now_and_then(moments, key, number)
            if writes(model):
                finish(moments, key)
            else:  # every process refuses what the one that writes does
                check_moments(moments, key)
            # in the precision that the files have
            found |= {layer: mean.float().double().cpu() for layer, mean in moments.means().items()}
    return {layer: covariance for layer, covariance in found.items() if covariance is not None}


def announcement(key: CovarianceKey, layers: Sequence[int]) -> str:
    """What has to be done before the first edit, and what would be cheaper, in words.

    Args:
        key: What the second moments are made of.
        layers: The layers whose second moments are missing.
    """
    blocks = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers"
    cheaper = "fewer tokens (--model.editor.moment_tokens), or C = I (identity), which harms what is said about others"
    if key.text == SAMPLED:
        cheaper = f"a text to read (--model.editor.second_moment {BUNDLED}), {cheaper}"
    source = "text that the model writes now" if key.text == SAMPLED else f"text ({key.text})"
    return (
        f"Before the first edit: second moments of {blocks}, from {key.tokens:,} tokens of {source}. This is done once, and "
        f"kept in the cache. Cheaper: {cheaper}."
    )


def find_curvatures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    source: str,
    tokens: int,
    sequence_length: int = 256,
) -> dict[int, Curvature]:
    """The curvature of plain text's loss in the out-projections of some layers: from the cache, else estimated and put there.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Its tokenizer.
        layers: Indices of the blocks; those that are missing are estimated together.
        source: A text, as :func:`~lga_lightning.data.corpus.read_texts` takes it, or ``sampled``.
        tokens: Number of tokens.
        sequence_length: Number of tokens of a piece of text, at most.

    Raises:
        DataError: If there is no text, the cache holds something else, or they are no numbers.
    """
    key = CovarianceKey.of(model, tokenizer, source, tokens, sequence_length)
    paths = {layer: key.folder / f"curvature-{layer}.safetensors" for layer in layers}
    with _lock(model, key.folder, paths.values()):
        held = {layer: load_layer(path, layer, key, ("keys", "gradients")) for layer, path in paths.items()}
        found = {layer: Curvature(**part[0], tokens=part[1]) for layer, part in held.items() if part is not None}
        missing = of_any(model, set(layers) - found.keys())
        if missing:
            shown = _shown(batches(model, tokenizer, source, tokens, sequence_length), "Curvature", 0, key, missing)
            pieces = (piece for batch in shown for piece in batch if len(piece) > 1)
            groups = iter(lambda: list(islice(pieces, BACKWARD_ROWS)), [])
            estimated = curvature_of(model, missing, map(encode_pieces, groups))
            for layer, curvature in estimated.items():
                _check_finite(f"The curvature of block {layer}", key, curvature.keys, curvature.gradients)
            for layer, curvature in estimated.items() if writes(model) else ():
                moments = {"keys": curvature.keys, "gradients": curvature.gradients}
                save_layer(paths[layer], layer, key, moments, curvature.tokens)
            found |= {layer: curvature.as_kept() for layer, curvature in estimated.items()}
    return {layer: found[layer] for layer in layers}


def _lock(model: PreTrainedModel, folder: Path, paths: Iterable[Path]) -> AbstractContextManager[object]:
    """The lock on a folder of the cache; none where all files are there, which may be in a cache that is only read.

    Nor where processes run a model in shards, in step: one of them writes.
    """
    from filelock import FileLock

    if all(path.is_file() for path in paths):
        return nullcontext()
    folder.mkdir(parents=True, exist_ok=True)
    if is_sharded(model):
        return nullcontext()
    return FileLock(folder / "lock")


def finish(moments: CovarianceAccumulator, key: CovarianceKey) -> None:
    """Put finished moments into the cache.

    Args:
        moments: Sums over all tokens.
        key: Everything that they are made of.

    Raises:
        DataError: See :func:`check_moments`.
    """
    check_moments(moments, key)
    save_covariances(moments, key, key.folder)
    _partial(key).unlink(missing_ok=True)


def check_moments(moments: CovarianceAccumulator, key: CovarianceKey) -> None:
    """Refuse moments that are of no use, and leave nothing of them to go on with.

    Args:
        moments: Sums over all tokens.
        key: Everything that they are made of.

    Raises:
        DataError: If no token was counted, or they are no numbers.
    """
    if not moments.tokens:
        raise DataError(f"The text {key.text!r} is empty: there is nothing to take second moments of.")
    try:
        for layer in moments.layers:
            _check_finite(f"The second moment of block {layer}", key, getattr(moments, f"sum_{layer}"))
    except DataError:
        _partial(key).unlink(missing_ok=True)
        raise


def _check_finite(what: str, key: CovarianceKey, *moments: Tensor) -> None:
    """Refuse moments of NaN or infinite numbers, lest they are kept.

    Raises:
        DataError: Says what they are of.
    """
    if not all(bool(moment.isfinite().all()) for moment in moments):
        raise DataError(
            f"{what} holds NaN or infinite numbers, and so does what the model makes of the text {key.text!r}. The model computes in "
            f"{key.dtype}: check its weights for NaN (a broken download or conversion), and in float16 try --model.dtype bfloat16 or "
            "float32, whose range is wider."
        )


def restore_partial(moments: CovarianceAccumulator, key: CovarianceKey) -> int:
    """Take up what an interrupted run left for the same layers, and say how many batches it has done."""
    try:
        tensors, note = load_tensors(_partial(key))
        if json.loads(note["layers"]) != moments.layers:
            return 0
        for name, tensor in tensors.items():
            getattr(moments, name).copy_(tensor)
        moments._update_count = 1  # not empty any more
        return int(note["batches"])
    except (OSError, KeyError, ValueError):
        return 0  # there is none, or it is broken: begin anew


def save_partial(moments: CovarianceAccumulator, key: CovarianceKey, done: int) -> None:
    """Write down how far the estimate is.

    Args:
        moments: Sums over all processes.
        key: Everything that they are made of.
        done: Number of batches that have been counted.
    """
    names = [*(f"sum_{layer}" for layer in moments.layers), "tokens"]
    note = {"layers": json.dumps(moments.layers), "batches": str(done)}
    save_tensors(_partial(key), {name: getattr(moments, name) for name in names}, note)


def save_partial_now_and_then(moments: CovarianceAccumulator, key: CovarianceKey, done: int) -> None:
    """:func:`save_partial`, once a minute at most."""
    path = _partial(key)
    since = path.stat().st_mtime if path.exists() else key.folder.stat().st_mtime
    if time.time() - since > SAVE_EVERY:
        save_partial(moments, key, done)


def _partial(key: CovarianceKey) -> Path:
    return key.folder / "partial.safetensors"


def _shown(
    pending: Iterable[list[list[int]]], what: str, done: int, key: CovarianceKey, layers: Sequence[int]
) -> Iterator[list[list[int]]]:
    """The same batches, with a bar that counts their tokens, and those that were done before."""
    from tqdm import tqdm

    title = f"{what} of {key.model}, {len(layers)} layer(s), from {key.text}"
    with tqdm(total=key.tokens, desc=title, unit=" tokens", initial=done, disable=hidden()) as bar:
        for batch in pending:
            yield batch
            bar.update(sum(map(len, batch)))
