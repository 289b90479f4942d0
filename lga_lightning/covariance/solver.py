"""The second moment of keys as editing methods use it: found, factorised once, and solved with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.covariance.batches import SAMPLED, file_hash_of, token_budget
from lga_lightning.covariance.estimate import find_covariances
from lga_lightning.covariance.store import CovarianceKey, load_covariance
from lga_lightning.exceptions import DataError
from lga_lightning.models.per_weights import PerWeights
from lga_lightning.utils.io import user_path
from lga_lightning.utils.per_model import PerModel
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IDENTITY = "identity"
OF_THE_MODEL = ("weights", "tokenizer", "dtype")


@dataclass
class CovarianceSolver:
    """C = E[k k^T] of the layers of a model, and linear systems with it.

    Args:
        source: ``identity`` for C = I; ``sampled`` for text that the model itself writes; the ``bundled`` text, a text file or a
            data set, as :func:`~lga_lightning.data.corpus.read_texts` takes it; or a folder that ``lga moments`` wrote.
        tokens: Number of tokens that it is estimated from, where it is; None for 20 times the width of the widest keys.
        sequence_length: Number of tokens of a piece of text, at most.
    """

    source: str
    tokens: int | None = None
    sequence_length: int = 256
    _covariances: PerWeights[dict[int, Tensor]] = field(default_factory=PerWeights, repr=False)
    _hashes: PerModel[dict[str, str]] = field(default_factory=PerModel, repr=False)
    _factors: PerModel[dict[Any, Tensor]] = field(default_factory=PerModel, repr=False)

    def __post_init__(self) -> None:
        if self.tokens is not None:
            check_at_least_one(moment_tokens=self.tokens)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]) -> None:
        """Have the second moments of some layers at hand; call it first while the model is not edited.

        Args:
            model: A causal language model; it is not changed.
            tokenizer: Its fast tokenizer.
            layers: Indices of the blocks.

        Raises:
            DataError: If they cannot be made, or were made for another model.
        """
        given = user_path(self.source).is_dir()  # the user's word: of one model, and looked at when it was read
        have = self._covariances.setdefault(model, {}) if given else self._covariances.of(model, dict)
        if not have:
            self._factors.pop(model, None)
            self._hashes.pop(model, None)  # of the file that C is now taken from
        missing = [layer for layer in layers if layer not in have]
        if not missing or self.source == IDENTITY:
            return
        folder = user_path(self.source)
        if not folder.is_dir():
            have |= find_covariances(model, tokenizer, missing, self.source, self.tokens, self.sequence_length)
            return
        key = CovarianceKey.of(model, tokenizer, SAMPLED, 1, self.sequence_length)
        for layer in missing:
            covariance = load_covariance(folder, layer, key, OF_THE_MODEL)
            if covariance is None:
                raise DataError(
                    f"The folder {str(folder)!r} has no second moment of block {layer}. Run `lga moments` for this layer too."
                )
            have[layer] = covariance

    def solve(self, model: PreTrainedModel, layer: int, keys: Tensor) -> Tensor:
        """Products C^-1 k for keys k [n, d_in]: [n, d_in], solved in float64.

        Raises:
            DataError: If C cannot be inverted.
        """
        if self.source == IDENTITY:
            return keys
        factors = self._factors.setdefault(model, {})
        if layer not in factors:
            covariance = self._covariances[model][layer].to(keys.device)
            factor, failed = torch.linalg.cholesky_ex(covariance)
            # a singular matrix may still pass, by rounding
            if failed or factor.diagonal().min() ** 2 < 1e-12 * covariance.diagonal().max():
                raise DataError(
                    f"The second moment of block {layer} (from {self.source!r}) cannot be inverted: it was taken from too few "
                    f"tokens for keys of width {len(covariance)}. Raise --model.editor.moment_tokens to several times that width, "
                    "or give it more text."
                )
            factors[layer] = factor
        factors[layer] = factors[layer].to(keys.device)  # the model may have moved
        return torch.cholesky_solve(keys.double().T, factors[layer]).T.to(keys.dtype)

    def project(self, model: PreTrainedModel, layer: int, keys: Tensor, threshold: float) -> Tensor:
        """Part of keys [n, d_in] that lies in the span of C's singular vectors with values below a threshold, [n, d_in].

        It is zero where there are no such vectors.
        """
        free = self.free_vectors(model, layer, threshold, keys.device)
        return keys.to(free) @ free @ free.T

    def free_vectors(
        self, model: PreTrainedModel, layer: int, threshold: float, device: torch.device | None = None
    ) -> Tensor:
        """C's singular vectors with values below a threshold, [d_in, f] in float64, found once.

        Args:
            model: The model.
            layer: Index of the block.
            threshold: The threshold.
            device: Where they are wanted; by default where they are, or else C is.
        """
        factors = self._factors.setdefault(model, {})
        name = (layer, threshold)
        if name not in factors:
            values, vectors = torch.linalg.eigh(self._covariances[model][layer].to(device))
            factors[name] = vectors[:, values < threshold]
        return factors[name].to(device)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Source and budget of tokens, for result files, and a hash of a file of texts."""
        if self.source == IDENTITY:
            return {"second_moment": IDENTITY}
        if user_path(self.source).is_dir():
            return {"second_moment": self.source}
        tokens = self.tokens or token_budget(model)
        if model not in self._hashes:
            self._hashes[model] = file_hash_of("second_moment", self.source)
        budget = {"moment_tokens": tokens, "sequence_length": self.sequence_length}
        return {"second_moment": self.source, **self._hashes[model], **budget}
