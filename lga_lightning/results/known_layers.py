"""Golden layers that were found before, in the user's cache: found once for a model, a method and a set of proxies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning._version import __version__
from lga_lightning.data.requests import EditRequest
from lga_lightning.data.sources import source_fingerprint
from lga_lightning.editing.base import EditMethod
from lga_lightning.exceptions import LayerError
from lga_lightning.locators.race import RaceSettings
from lga_lightning.models.chat import ChatTokenizer
from lga_lightning.models.loading import cache_folder
from lga_lightning.models.weights import weights_hash
from lga_lightning.results.attribution import LocatorResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class KnownLayer:
    """Everything that a search for the golden layer depends on, and the file that keeps what it found.

    Attributes:
        model: Name of the model's folder or of its repository, for the file's name.
        weights: SHA-256 of all weights.
        method: Name and settings of the editing method, and how many blocks it edits.
        proxies: What tells the proxies from any others.
        in_chat: Whether they are asked in the chat template.
        race: Settings of the race; None where there is none.
        version: Version of this package.
    """

    model: str
    weights: str
    method: Mapping[str, Any]
    proxies: str
    in_chat: bool
    race: Mapping[str, Any] | None
    version: str = __version__

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        editor: EditMethod,
        proxies: str | Path | Sequence[EditRequest],
        race: RaceSettings | None,
    ) -> KnownLayer:
        """The search for a model as it is now.

        Args:
            model: A causal language model.
            tokenizer: Its tokenizer.
            editor: How facts are edited.
            proxies: A file or a data set of the Hub, or requests at hand.
            race: Settings of the race; None where there is none.

        Raises:
            DataError: If there is no such file or data set.
        """
        if isinstance(proxies, str | Path):
            content = source_fingerprint(proxies)
        else:
            content = hashlib.sha256(repr(proxies).encode()).hexdigest()
        return cls(
            model=Path(model.config.name_or_path or type(model).__name__).name,
            weights=weights_hash(model),
            method=editor.settings_by_layer(model),
            proxies=content,
            in_chat=isinstance(tokenizer, ChatTokenizer),
            race=None if race is None else asdict(race),
        )

    @property
    def path(self) -> Path:
        """The file in the cache."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()[:16]
        return cache_folder() / "layers" / f"{self.model}-{digest}.json"

    def load(self) -> LocatorResult | None:
        """What was found before; None where nothing was, or the file cannot be read any more."""
        if not self.path.is_file():
            return None
        with suppress(LayerError):
            return LocatorResult.load(self.path)
        return None

    def keep(self, result: LocatorResult) -> None:
        """Keep what was found, as an ``attribution.json``; a cache that cannot be written costs the next search, and no more.

        Args:
            result: What was found.
        """
        with suppress(OSError):
            result.save(self.path)
