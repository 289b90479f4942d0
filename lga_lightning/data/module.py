"""The Lightning data module."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import lightning as L

from lga_lightning.data.batches import RequestBatches
from lga_lightning.data.readers import FACTS, LoadedRequests, load_requests
from lga_lightning.errors import DataError

log = logging.getLogger(__name__)

SPLITS = {"fit": "proxy", "validate": "test"}


class EditDataModule(L.LightningDataModule):
    """Edit requests from a file: proxies for ``fit``, requests to edit and score for ``validate``.

    A row with ``"split": "proxy"`` serves ``fit`` alone, one with ``"test"`` serves ``validate`` alone, and a row without a
    split serves both.

    Args:
        requests: A JSON or JSON Lines file; the bundled facts by default.
        format: Its format: ``jsonl`` (ours) or ``counterfact-edit`` (EasyEdit).
        limit: Use the first so many requests (of the split).
        batch_size: Requests a batch.
        strict: Fail at the first request that cannot be used, instead of leaving it out and counting it.
    """

    def __init__(
        self,
        requests: str | None = None,
        format: Literal["jsonl", "counterfact-edit"] = "jsonl",
        limit: int | None = None,
        batch_size: int = 8,
        strict: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise DataError(f"`batch_size` must be at least 1, got {batch_size}.")
        self.path = requests
        self.format = format
        self.limit = limit
        self.batch_size = batch_size
        self.strict = strict
        self.done: Collection[int] = ()
        self.loaded = LoadedRequests([])

    @property
    def name(self) -> str:
        """What the requests are, for results."""
        return FACTS if self.path is None else Path(self.path).name

    @property
    def fingerprint(self) -> str:
        """A hash of the requests in their order."""
        return hashlib.sha256(repr(self.loaded.requests).encode()).hexdigest()[:16]

    def setup(self, stage: str) -> None:
        """Read the file."""
        self.loaded = load_requests(self.path, self.format, self.limit, self.strict, SPLITS.get(stage))
        for reason, count in self.loaded.skipped.items():
            log.warning(
                "Left out %d of the records of %s: %s. The first: %s",
                count,
                self.name,
                reason,
                self.loaded.first_skipped[reason],
            )

    def train_dataloader(self) -> RequestBatches:
        """The proxies of this process, less those that a resumed run has done."""
        return self._batches(self.done)

    def val_dataloader(self) -> RequestBatches | list:
        """The requests to edit; nothing while fitting, which has no validation."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            return []
        return self._batches()

    def _batches(self, done: Collection[int] = ()) -> RequestBatches:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return RequestBatches(self.loaded.requests, self.batch_size, rank, world_size, done)
