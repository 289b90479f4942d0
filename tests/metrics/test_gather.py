"""Tables of results by request, on one process and on two, against what went in."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from lga_lightning.cli import run
from lga_lightning.metrics import LayerScores, RequestRecords, RequestTable
from tests.helpers.cli import QUICK
from tests.helpers.data import rows, write_rows


def scores_of(index: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows that a request always has: evidence [B, 2, 3] and status [B]."""
    values = index.double().view(-1, 1, 1) + torch.arange(6).view(1, 2, 3) / 10
    return {"index": index, "values": values, "status": index % 3}


def test_a_table_is_in_order_and_has_a_request_once():
    table = RequestTable("values")
    table.update(torch.tensor([7, 2]), values=torch.tensor([[0.7], [0.2]]))
    table.update(torch.tensor([2, 9, 0]), values=torch.tensor([[5.0], [0.9], [0.0]]))
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


def together(first: RequestTable, second: RequestTable) -> tuple:
    """What the first of two processes computes.

    Instead of a process group: every gather brings the next state of the other process.
    """
    others = iter([torch.cat(getattr(second, name)) for name in ("index", *second.columns)])
    first.dist_sync_fn = lambda tensor, group: [tensor, next(others)]
    first.distributed_available_fn = lambda: True
    return first.compute()


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

    expected = scores_of(torch.tensor([1, 2, 4, 8]))
    for got, name in zip(together(first, second), ("index", "values", "status"), strict=True):
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


def test_a_batch_without_records():
    records = RequestRecords()
    records.update(torch.zeros(0, dtype=torch.long), [])
    assert records.compute() == ([], [])
    records.update(torch.tensor([3]), [{"said": "x"}])
    records.update(torch.zeros(0, dtype=torch.long), [])
    assert records.compute() == ([3], [{"said": "x"}])


def test_records_of_two_processes():
    def record(index: int) -> dict:
        return {"said": ["Zoë", "東京", ""][index % 3] * index, "scores": [0.1 * index, 1 / 3, 1e-300]}

    dealt = [[4, 8, 1], [2, 4]]
    processes = []
    for index in dealt:
        process = RequestRecords()
        for one in index:  # in batches of one
            process.update(torch.tensor([one]), [record(one)])
        processes.append(process)
    alone = RequestRecords()
    alone.update(torch.tensor([8, 4, 2, 1]), [record(index) for index in (8, 4, 2, 1)])

    assert together(*processes) == alone.compute() == ([1, 2, 4, 8], [record(index) for index in (1, 2, 4, 8)])


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_a_table_of_one_row_keeps_its_shape(size, twice):
    """With two processes, both of which were dealt the one request."""
    expected = {"index": torch.tensor([5]), "values": torch.full((1, *size), 0.5), "status": torch.tensor([0])}
    tables = [LayerScores(), LayerScores()]
    for table in tables:
        table.update(**expected)
    found = together(*tables) if twice else tables[0].compute()
    for got, wanted in zip(found, expected.values(), strict=True):
        assert got.shape == wanted.shape
        assert torch.equal(got, wanted)
    assert tables[0].compute() is found  # as long as no row is added
    resumed = pickle.loads(pickle.dumps(tables[1]))  # it travels, and still keeps it
    assert [tensor.shape for tensor in resumed.compute()] == [tensor.shape for tensor in found]
    resumed = LayerScores()
    resumed.restore(tables[1].snapshot())
    assert resumed.compute()[1].shape == (1, *size)


def test_a_row_that_lacks_a_column_leaves_the_table_whole():
    table = LayerScores()
    with pytest.raises(KeyError, match="status"):
        table.update(torch.tensor([1]), values=torch.zeros(1, 2, 3))
    assert table.index == table.values == []


def test_layers_are_scored_by_a_single_request(model_folder, tmp_path):
    data = write_rows(tmp_path / "requests.jsonl", rows(2))
    command = ["fit", f"--model.model_name={model_folder}", f"--data.requests={data}", "--data.limit=1", *QUICK]
    run([*command, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    result = json.loads((tmp_path / "run" / "attribution.json").read_text())
    assert result["num_requests"] == 1
    assert len(result["scores"]) == 4
