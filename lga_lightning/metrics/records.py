"""Results by request that are not numbers alone: texts and scores, kept under the request's index, on any number of processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class RequestRecords(Metric):
    """One record a request: anything that JSON can say.

    Records are kept as JSON in tensors of bytes, so that processes exchange them as they exchange any metric's state. Numbers
    come back bit for bit; tuples come back as lists.

    Example:
        >>> records = RequestRecords()
        >>> records.update(torch.tensor([4, 2]), [{"said": "Zoë"}, {"said": "Rome"}])
        >>> records.update(torch.tensor([2]), [{"said": "Rome"}])  # dealt twice
        >>> records.compute()
        ([2, 4], [{'said': 'Rome'}, {'said': 'Zoë'}])
    """

    full_state_update = False
    index: list[Tensor]
    lengths: list[Tensor]
    content: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "lengths", "content"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, records: Sequence[Any]) -> None:
        """Add records.

        Args:
            index: [B] indices of requests.
            records: B records.
        """
        texts = [json.dumps(record, ensure_ascii=False).encode() for record in records]
        device = self.device
        self.index.append(index.to(device))
        self.lengths.append(torch.tensor([len(text) for text in texts], dtype=torch.long, device=device))
        content = bytearray(b"".join(texts))  # a process may have none
        self.content.append(
            (torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0).byte()).to(device)
        )

    def compute(self) -> tuple[list[int], list[Any]]:
        """Indices in ascending order and their records, each request once."""
        index = dim_zero_cat(self.index).tolist()
        lengths = dim_zero_cat(self.lengths).tolist()
        content = bytes(dim_zero_cat(self.content).cpu().numpy())
        found: dict[int, bytes] = {}
        start = 0
        for key, length in zip(index, lengths, strict=True):
            found.setdefault(key, content[start : start + length])
            start += length
        order = sorted(found)
        return order, [json.loads(found[key]) for key in order]
