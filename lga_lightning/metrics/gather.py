"""Results by request: whatever a process found out about a request, kept under the request's index.

Keeping the rows, not running sums, makes several processes simple: they are put together, and a request that was dealt
to two of them counts once. It also gives confidence intervals, and a resumed run knows what is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class RequestTable(Metric):
    """Columns of tensors with one row a request.

    Args:
        columns: Names of the columns.

    Example:
        >>> table = RequestTable("scores")
        >>> table.update(torch.tensor([4, 2]), scores=torch.tensor([[0.4], [0.2]]))
        >>> table.update(torch.tensor([2]), scores=torch.tensor([[0.2]]))  # dealt twice
        >>> index, scores = table.compute()
        >>> index.tolist(), scores.shape
        ([2, 4], torch.Size([2, 1]))
    """

    full_state_update = False
    index: list[Tensor]

    def __init__(self, *columns: str) -> None:
        super().__init__()
        self.columns = columns
        for name in ("index", *columns):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, **rows: Tensor) -> None:
        """Add rows.

        Args:
            index: [B] indices of requests.
            rows: By column, [B, ...] their rows.
        """
        states = {"index": index, **{name: rows[name] for name in self.columns}}
        for name, tensor in states.items():
            getattr(self, name).append(tensor.to(self.device))

    def compute(self) -> tuple[Tensor, ...]:
        """Indices [N] in ascending order, and each column's rows [N, ...]: of each request the first."""
        index, first = self._first_rows()
        return index, *(dim_zero_cat(getattr(self, name))[first] for name in self.columns)

    def _first_rows(self) -> tuple[Tensor, Tensor]:
        """Indices [N] in ascending order, and where [N] each one's first row is."""
        index = dim_zero_cat(self.index)
        order = torch.argsort(index, stable=True)
        ordered = index[order]
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        return ordered[is_first], order[is_first]

    def _wrap_compute(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        """As torchmetrics does, but a table of one row keeps its shape: torchmetrics makes scalars of tensors of one element."""
        wrapped = super()._wrap_compute(lambda: _OutOfReach(compute()))
        return lambda: wrapped().value


class _OutOfReach:
    """Holds tensors where torchmetrics does not look for them."""

    def __init__(self, value: Any) -> None:
        self.value = value


class LayerScores(RequestTable):
    """A locator's evidence: ``values`` [C, L] a request, and ``status``: 0 for a request that counts, else why not, a code."""

    def __init__(self) -> None:
        super().__init__("values", "status")

    def snapshot(self) -> dict[str, Tensor]:
        """All rows of all processes, on the CPU, for a checkpoint; a collective operation."""
        states = [self.index, *(getattr(self, name) for name in self.columns)]
        rows = min(map(len, states))  # an interrupt may have come between two of the lists
        for state in states:
            del state[rows:]
        if not rows:
            return {}
        found = self.compute()
        self._computed = None  # more rows will come
        return {name: tensor.cpu() for name, tensor in zip(("index", *self.columns), found, strict=True)}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Take up the rows of a :meth:`snapshot`."""
        if snapshot:
            self.update(**snapshot)


class RequestRecords(RequestTable):
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

    lengths: list[Tensor]
    content: list[Tensor]

    def __init__(self) -> None:
        super().__init__("lengths", "content")  # bytes of each record; the records' bytes, one behind the other

    def update(self, index: Tensor, records: Sequence[Any]) -> None:  # type: ignore[override]
        """Add records.

        Args:
            index: [B] indices of requests.
            records: B records.
        """
        texts = [json.dumps(record, ensure_ascii=False).encode() for record in records]
        lengths = torch.tensor([len(text) for text in texts], dtype=torch.long)
        joined = bytearray(b"".join(texts))
        content = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
        super().update(index, lengths=lengths, content=content)

    def compute(self) -> tuple[list[int], list[Any]]:  # type: ignore[override]
        """Indices in ascending order and their records, each request once."""
        index, first = self._first_rows()
        pieces = dim_zero_cat(self.content).cpu().split(dim_zero_cat(self.lengths).tolist())
        return index.tolist(), [json.loads(bytes(pieces[row].numpy())) for row in first.tolist()]
