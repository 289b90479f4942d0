"""The Lightning data module."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import lightning as L
from torch.utils.data import Dataset, IterableDataset

from lga_lightning.callbacks.shares import loader_of, share_of
from lga_lightning.data.batching import RequestBatches
from lga_lightning.data.formats import Format, FormatName, ZsreTarget
from lga_lightning.data.loading import AT_HAND, LoadedRequests, load_requests, name_of_requests
from lga_lightning.data.requests import EditRequest, units_of
from lga_lightning.data.short_facts import parse_fact
from lga_lightning.exceptions import DataError

log = logging.getLogger(__name__)

IN_CHAT = ", in the chat template"
SPLITS = {"fit": "proxy", "validate": "test", "predict": "test"}


@dataclass(frozen=True)
class RunData:
    """What a run works on, however it came into it.

    Attributes:
        requests: The requests, in the order of their data set.
        name: What to call them in results.
        skipped: Number of records that were left out because they cannot be used, by reason.
        in_chat: Whether they are asked in the model's chat template.
        batch_size: Requests of a batch; None where batches are no fixed number of them.
    """

    requests: Sequence[EditRequest]
    name: str
    skipped: Counter[str]
    in_chat: bool = False
    batch_size: int | None = None

    @classmethod
    def of(cls, trainer: Any, in_chat: bool = False) -> RunData:
        """The requests of a trainer's present run: those of its :class:`EditDataModule`, or of its ``DataLoader``.

        Args:
            trainer: The trainer.
            in_chat: Whether the requests of a ``DataLoader`` are asked in the chat template.

        Raises:
            DataError: If there is not one ``DataLoader``, over a list (or another map-style data set) of requests.
        """
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, EditDataModule):
            return data.run_data()
        loader = loader_of(trainer)
        dataset: Any = getattr(loader, "dataset", None)
        listed = isinstance(dataset, Sequence | Dataset) and not isinstance(dataset, IterableDataset)
        found = [dataset[place] for place in range(len(dataset))] if listed else [dataset]
        strangers = [type(request).__name__ for request in found if not isinstance(request, EditRequest)]
        if strangers:
            given = f"{len(loader)} dataloaders" if isinstance(loader, list | dict) else strangers[0]
            raise DataError(
                f"LGAModule works on requests, one by one out of a list, and was given {given}. Give one `DataLoader` over a list "
                "of EditRequests (`load_requests(...).requests`) or a `Subset` of one, or an EditDataModule."
            )
        return cls(found, AT_HAND + IN_CHAT * in_chat, Counter(), in_chat, getattr(loader, "batch_size", None))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the requests in their order, and of how they are asked."""
        asked = f"{list(self.requests)!r}{' in chat' * self.in_chat}"
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


class EditDataModule(L.LightningDataModule):
    """Edit requests from a file or a Hub data set: proxies for ``fit``, requests to edit for ``validate`` and ``predict``.

    A row with ``"split": "proxy"`` serves ``fit`` alone, one with ``"test"`` serves ``validate`` alone, and a row without a
    split serves both, unless ``proxy_share`` says otherwise.

    Args:
        requests: A JSON, JSON Lines, CSV, TSV or Parquet file, or ``hub:owner/name``, to which ``@revision`` and
            ``?config=...&split=...&file=...`` can be added; the bundled facts by default, where no ``facts`` are given.
        format: Its format: a name, or a ``Format`` of your own (on the command line: the path of its class); ``auto``
            recognises it by the first record.
        limit: Use the first so many requests (of the split).
        batch_size: Requests a batch.
        strict: Fail at the first request that cannot be used, instead of leaving it out and counting it.
        relations: Use the requests of these relations alone.
        seed: Use a random sample instead of the first so many. The same number gives the same sample, in any order of the
            file. None keeps the file's order.
        proxy_share: Split requests without a split by their subjects: this share of all subjects serves ``fit``, the others
            ``validate``.
        zsre_target: For the format ``zsre_mend_eval``: which answer is edited in, ``alt`` or ``answers[0]``.
        chat_template: Ask all prompts as a user does in a chat, by the chat template of the model's tokenizer.
        split: Use the requests of this split, whatever the verb.
        facts: Facts in a line each, ``prompt|subject|target``, instead of a source of requests.
    """

    def __init__(
        self,
        requests: str | None = None,
        format: FormatName | Format = "auto",
        limit: int | None = None,
        batch_size: int = 8,
        strict: bool = False,
        relations: list[str] | None = None,
        seed: int | None = None,
        proxy_share: float | None = None,
        zsre_target: ZsreTarget = "alt",
        chat_template: bool = False,
        split: Literal["proxy", "test"] | None = None,
        facts: list[str] | None = None,
    ) -> None:
        super().__init__()
        if requests and facts is not None:
            raise DataError("Facts come from `requests` or from `facts`, not from both. Leave one out.")
        if batch_size < 1:
            raise DataError(f"`batch_size` must be at least 1, got {batch_size}.")
        self.source = requests if facts is None else [parse_fact(fact) for fact in facts]
        self.format = format
        self.limit = limit
        self.batch_size = batch_size
        self.strict = strict
        self.relations = relations
        self.seed = seed
        self.proxy_share = proxy_share
        self.zsre_target = zsre_target
        self.chat_template = chat_template
        self.split = split
        self.loaded = LoadedRequests([])

    @property
    def name(self) -> str:
        """What the requests are, for results: the source, and the choices that make numbers comparable or not."""
        name = name_of_requests(self.source)
        if self.loaded.note:
            name += f", {self.loaded.note}"
        return name + IN_CHAT * self.chat_template

    def run_data(self) -> RunData:
        """The requests that were read, with all that results say of them."""
        return RunData(self.loaded.requests, self.name, self.loaded.skipped, self.chat_template, self.batch_size)

    def setup(self, stage: str) -> None:
        """Read the requests of the stage's split."""
        self.loaded = load_requests(
            self.source,
            self.format,
            limit=self.limit,
            strict=self.strict,
            split=self.split or SPLITS.get(stage),
            relations=self.relations,
            seed=self.seed,
            proxy_share=self.proxy_share,
            zsre_target=self.zsre_target,
        )
        for reason, count in self.loaded.skipped.items():
            log.warning(
                "Left out %d of the records of %s: %s. The first: %s",
                count,
                self.name,
                reason,
                self.loaded.first_skipped[reason],
            )
        for reason, count in self.loaded.dropped.items():
            log.warning("Left out %d probes of the requests of %s: %s.", count, self.name, reason)
        if stage == "predict" and self.limit is not None and len([*units_of(self.loaded.requests)]) == self.limit:
            log.warning(
                "%s: --data.limit %d is reached; facts beyond it, if any, are not edited.", self.name, self.limit
            )
        if self.loaded.unread:
            fields = ", ".join(sorted(self.loaded.unread))
            log.warning("%s has fields that the format %s does not read: %s.", self.name, self.loaded.format, fields)

    def train_dataloader(self) -> RequestBatches:
        """The proxies of this process, less those that a resumed run has done."""
        return self._batches(getattr(self.trainer.lightning_module, "scored", ()) if self.trainer else ())

    def val_dataloader(self) -> RequestBatches | list:
        """The requests to edit; nothing while fitting, which has no validation."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            return []
        return self._edits()

    def predict_dataloader(self) -> RequestBatches:
        """The requests to edit."""
        return self._edits()

    def _edits(self) -> RequestBatches:
        """In their order where they end up in one edit; dealt out, but for edits one after the other, which each process needs all."""
        mode = getattr(self.trainer and self.trainer.lightning_module, "run_mode", "independent")
        if mode == "sequential":
            return RequestBatches(self.loaded.requests, self.batch_size, in_order=True)
        return self._batches(in_order=mode == "batch")

    def _batches(self, done: Collection[int] = (), in_order: bool = False) -> RequestBatches:
        rank, world_size = share_of(self.trainer) if self.trainer else (0, 1)
        return RequestBatches(self.loaded.requests, self.batch_size, rank, world_size, done, in_order)
