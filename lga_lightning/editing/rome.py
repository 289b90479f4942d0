"""ROME (arXiv 2202.05262) and R-ROME (arXiv 2403.07175): one fact, one rank-one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.contexts import sample_contexts
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.target_value import TargetValueSettings, find_target_values
from lga_lightning.errors import DataError, SettingError
from lga_lightning.families import EditSite, edit_site
from lga_lightning.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ROME(EditMethod):
    """Writes W <- W + Lambda u^T so that the key of the bare prompt gives the target value.

    u = C^-1 k / |C^-1 k| for the key k averaged over contexts; Lambda = (v* - W k0) / (k0 . u) for the key k0 of the bare
    prompt. That two different keys enter is the known flaw of ROME's code (see :class:`RROME`); it is kept here for
    comparison.

    Args:
        steps: Evaluations of the loss in the search for the target value.
        learning_rate: Of Adam in that search.
        weight_decay: Weight of |delta| / |h0|^2 in its loss.
        clamp: The value moves by at most this many times its norm.
        kl_factor: Weight of the divergence from the unedited model on "{subject} is a".
        stop_loss: A request is done when its loss is below this.
        context_lengths: New tokens of the texts sampled from the model that prompts are put behind.
        contexts_each: Such texts a length.
        second_moment: A safetensors file with C = E[k k^T] of each block, [d_in, d_in] under the block's number. None
            takes C = I.
    """

    name = "ROME"

    def __init__(
        self,
        steps: int = 25,
        learning_rate: float = 0.5,
        weight_decay: float = 1e-3,
        clamp: float = 4.0,
        kl_factor: float = 0.0625,
        stop_loss: float = 0.05,
        context_lengths: tuple[int, ...] = (5, 10),
        contexts_each: int = 10,
        second_moment: str | None = None,
    ) -> None:
        self.search = TargetValueSettings(steps, learning_rate, weight_decay, clamp, kl_factor, stop_loss)
        if contexts_each < 0 or min(context_lengths, default=1) < 1:
            raise SettingError(
                "`contexts_each` must be at least 0 and `context_lengths` at least 1, got "
                f"{contexts_each} and {context_lengths}."
            )
        self.context_lengths = tuple(context_lengths)
        self.contexts_each = contexts_each
        self.second_moment = second_moment
        self._contexts: WeakKeyDictionary[PreTrainedModel, list[str]] = WeakKeyDictionary()

    def compute_each(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], layer: int
    ) -> list[WeightDelta]:
        """A rank-one edit of one block for each request; see :class:`EditMethod`."""
        site = edit_site(model, layer)
        if model not in self._contexts:
            lengths, each = self.context_lengths, self.contexts_each
            self._contexts[model] = sample_contexts(model, tokenizer, lengths, each)
        found = find_target_values(model, tokenizer, requests, self._contexts[model], site, self.search)
        written = self.written_key(found.keys)
        with torch.no_grad():
            present = site.values(written)
        direction = self._direction(found.keys.mean(1), site)
        change = (found.before + found.delta - present) / (written * direction).sum(1, keepdim=True)
        return [WeightDelta({layer: (b.unsqueeze(1), a.unsqueeze(0))}) for b, a in zip(change, direction, strict=True)]

    def written_key(self, keys: Tensor) -> Tensor:
        """The key that gives the target value after the edit.

        Args:
            keys: [N, K, d_in] keys in contexts, that of the bare prompt first.

        Returns:
            [N, d_in].
        """
        return keys[:, 0]

    def settings(self) -> dict[str, Any]:
        """Name and settings, for result files."""
        return {
            "name": self.name,
            **asdict(self.search),
            "context_lengths": list(self.context_lengths),
            "contexts_each": self.contexts_each,
            "second_moment": self.second_moment or "identity",
        }

    def _direction(self, key: Tensor, site: EditSite) -> Tensor:
        """U = C^-1 k / |C^-1 k|, [N, d_in]."""
        if self.second_moment is not None:
            moment = load_second_moment(Path(self.second_moment), site)
            try:
                key = torch.linalg.solve(moment.to(key.device), key.double().T).T.to(key.dtype)
            except RuntimeError as error:
                raise DataError(
                    f"The second moment of block {site.layer} in {self.second_moment} cannot be inverted: it was taken from "
                    "too few tokens, or of keys that do not vary."
                ) from error
        return key / key.norm(dim=1, keepdim=True)


class RROME(ROME):
    """ROME with the averaged key everywhere, which is what keeps many edits in a row stable.

    Takes the arguments of :class:`ROME`.
    """

    name = "R-ROME"

    def written_key(self, keys: Tensor) -> Tensor:
        """The mean over contexts; see :class:`ROME`."""
        return keys.mean(1)


def load_second_moment(path: Path, site: EditSite) -> Tensor:
    """C = E[k k^T] of one block, [d_in, d_in] in float64.

    Raises:
        DataError: If the file is missing, lacks the block, or was made for another model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path.expanduser(), framework="pt") as file:
            if str(site.layer) not in file.keys():  # noqa: SIM118 - not a mapping
                have = sorted(file.keys())
                raise DataError(f"{path.name} holds no second moment of block {site.layer}; it has those of {have}.")
            moment: Tensor = file.get_tensor(str(site.layer)).double()
    except (OSError, SafetensorError) as error:
        raise DataError(f"The second moments at {str(path)!r} cannot be read: {error}.") from error
    if moment.shape != (site.in_features, site.in_features):
        raise DataError(
            f"{path.name} was made for another model: the second moment of block {site.layer} is {list(moment.shape)}, but "
            f"the keys of {site.name} have width {site.in_features}."
        )
    return moment
