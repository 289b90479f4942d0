"""Token metrics against loops, tables against dictionaries."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.encoding import IGNORE
from lga_lightning.metrics import LayerScores, RequestTable, token_accuracy, unchanged_tokens


def random_answers(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions before and after [40, 6], labels [40, 6] with answers of 1 to 6 tokens; few tokens, many hits."""
    generator = torch.Generator().manual_seed(seed)
    before, after, labels = (torch.randint(0, 3, (40, 6), generator=generator) for _ in range(3))
    lengths = torch.randint(1, 7, (40, 1), generator=generator)
    return before, after, labels.masked_fill(torch.arange(6) >= lengths, IGNORE)


def share(left: torch.Tensor, right: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The share of equal tokens of each row, by hand."""
    rows = []
    for l_row, r_row, label_row in zip(left.tolist(), right.tolist(), labels.tolist(), strict=True):
        hits = [x == y for x, y, label in zip(l_row, r_row, label_row, strict=True) if label != IGNORE]
        rows.append(sum(hits) / len(hits))
    return rows


def test_token_accuracy():
    predictions, _, labels = random_answers()
    assert token_accuracy(predictions, labels).tolist() == pytest.approx(share(predictions, labels, labels))


def test_unchanged_tokens():
    before, after, labels = random_answers()
    assert unchanged_tokens(before, after, labels).tolist() == pytest.approx(share(before, after, labels))
    assert unchanged_tokens(before, before, labels).tolist() == [1.0] * 40


def test_padding_changes_nothing():
    before, after, labels = random_answers()
    wider = torch.nn.functional.pad(labels, (0, 3), value=IGNORE)
    for value in (0, IGNORE):  # whatever is predicted there, even what stands there as label
        more_before, more_after = (torch.nn.functional.pad(x, (0, 3), value=value) for x in (before, after))
        assert torch.equal(token_accuracy(more_before, wider), token_accuracy(before, labels))
        assert torch.equal(unchanged_tokens(more_before, more_after, wider), unchanged_tokens(before, after, labels))


def scores_of(index: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows that a request always has: evidence [B, 2, 3] and status [B]."""
    values = index.double().view(-1, 1, 1) + torch.arange(6).view(1, 2, 3) / 10
    return {"index": index, "values": values, "status": index % 3}


def test_a_table_is_in_order_and_has_a_request_once():
    table = RequestTable()
    table.update(torch.tensor([7, 2]), torch.tensor([[0.7], [0.2]]))
    table.update(torch.tensor([2, 9, 0]), torch.tensor([[5.0], [0.9], [0.0]]))
    index, values = table.compute()
    assert index.tolist() == [0, 2, 7, 9]
    torch.testing.assert_close(values, torch.tensor([[0.0], [0.2], [0.7], [0.9]]))  # the first of two rows counts


def test_layer_scores_keep_status_with_its_row():
    table = LayerScores()
    for index in torch.tensor([[5, 1], [4, 5], [0, 3]]):
        table.update(**scores_of(index))
    expected = scores_of(torch.tensor([0, 1, 3, 4, 5]))
    for got, name in zip(table.compute(), ("index", "values", "status"), strict=True):
        assert torch.equal(got, expected[name])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_processes(order):
    # request 4 was dealt to both
    dealt = [torch.tensor([4, 8, 1]), torch.tensor([2, 4])]
    processes = []
    for index in dealt:
        process = LayerScores()
        process.update(**scores_of(index))
        processes.append(process)
    first, second = (processes[i] for i in order)

    # instead of a process group: every gather brings the next state of the other process
    others = iter([second.index[0], second.values[0], second.status[0]])
    first.dist_sync_fn = lambda tensor, group: [tensor, next(others)]
    first.distributed_available_fn = lambda: True
    expected = scores_of(torch.tensor([1, 2, 4, 8]))
    for got, name in zip(first.compute(), ("index", "values", "status"), strict=True):
        assert torch.equal(got, expected[name])
    assert torch.equal(torch.cat(first.index), dealt[order[0]])  # a process keeps its own rows


def test_a_snapshot_is_taken_up_and_more_rows_may_follow():
    table = LayerScores()
    table.update(**scores_of(torch.tensor([3, 1])))
    snapshot = table.snapshot()
    table.update(**scores_of(torch.tensor([2])))
    resumed = LayerScores()
    resumed.restore(snapshot)
    resumed.update(**scores_of(torch.tensor([2, 3])))
    assert snapshot["index"].tolist() == [1, 3]
    for one, two in zip(table.compute(), resumed.compute(), strict=True):
        assert torch.equal(one, two)


def test_the_snapshot_of_an_empty_table():
    table = LayerScores()
    assert table.snapshot() == {}
    table.restore({})
    assert table.index == []
