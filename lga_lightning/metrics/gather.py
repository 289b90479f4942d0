"""Results by request: whatever a process found out about a request, kept under the request's index.

Keeping the rows, not running sums, makes several processes simple: they are put together, and a request that was dealt
to two of them counts once. It also gives confidence intervals, and a resumed run knows what is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class RequestTable(Metric):
    """One row a request.

    Example:
        >>> table = RequestTable()
        >>> table.update(torch.tensor([4, 2]), torch.tensor([[0.4], [0.2]]))
        >>> table.update(torch.tensor([2]), torch.tensor([[0.2]]))  # dealt twice
        >>> index, values = table.compute()
        >>> index.tolist(), values.shape
        ([2, 4], torch.Size([2, 1]))
    """

    full_state_update = False
    index: list[Tensor]
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, values: Tensor) -> None:
        """Add rows.

        Args:
            index: [B] indices of requests.
            values: [B, ...] their rows.
        """
        self.index.append(index)
        self.values.append(values)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Indices [N] in ascending order, and their rows [N, ...], each request once."""
        return _once(dim_zero_cat(self.index), dim_zero_cat(self.values))


class LayerScores(RequestTable):
    """A locator's evidence, [C, L] a request, and whether the request counts (0) or why not (a code above 0)."""

    status: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("status", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, values: Tensor, status: Tensor) -> None:  # type: ignore[override]
        """Add rows.

        Args:
            index: [B] indices of requests.
            values: [B, C, L] evidence.
            status: [B] 0 for a request that counts.
        """
        super().update(index, values)
        self.status.append(status)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Indices [N] in ascending order, evidence [N, C, L] and status [N], each request once."""
        index = dim_zero_cat(self.index)
        return *_once(index, dim_zero_cat(self.values)), _once(index, dim_zero_cat(self.status))[1]

    def snapshot(self) -> dict[str, Tensor]:
        """All rows of all processes, on the CPU, for a checkpoint; a collective operation."""
        # an interrupt may have come between two of the lists
        rows = min(len(self.index), len(self.values), len(self.status))
        for rest in (self.index, self.values, self.status):
            del rest[rows:]
        if not rows:
            return {}
        index, values, status = self.compute()
        self._computed = None  # more rows will come
        return {"index": index.cpu(), "values": values.cpu(), "status": status.cpu()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Take up the rows of a :meth:`snapshot`."""
        if snapshot:
            self.update(**{name: tensor.to(self.device) for name, tensor in snapshot.items()})


def _once(index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first], rows[order][first]


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
