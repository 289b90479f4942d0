"""Requests of one group are one edit, in every mode."""

from __future__ import annotations

from dataclasses import replace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lga_lightning import EditDataModule, EvaluationConfig, LGAModule
from lga_lightning.callbacks import AdapterWriter
from lga_lightning.data import to_record
from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import DataError
from lga_lightning.modules.schedules import Independent
from tests.editing.helpers import ALL, method_for
from tests.helpers.data import write_rows
from tests.helpers.models import requests


def grouped() -> list[EditRequest]:
    """Five requests, of which 1 and 3 are a group, and 2 and 4 another."""
    groups = [None, "a", "b", "a", "b"]
    return [replace(request, group=group) for request, group in zip(requests(5), groups, strict=True)]


@pytest.mark.parametrize("kind", ALL)
def test_a_group_is_edited_as_if_it_were_alone(kind, llama, tokenizer):
    method, asked = method_for(kind, llama), grouped()
    deltas = method.compute_groups(llama, tokenizer, asked, [1, 2])
    assert deltas[1] is deltas[3]
    assert deltas[2] is deltas[4]
    for delta, rows in ((deltas[0], [0]), (deltas[1], [1, 3]), (deltas[2], [2, 4])):
        alone = method.compute(llama, tokenizer, [asked[row] for row in rows], [1, 2])
        assert delta.ranks == alone.ranks
        for name in alone.updates:
            torch.testing.assert_close(delta.matrix(name), alone.matrix(name), rtol=1e-3, atol=1e-5)


def test_requests_of_no_group_are_edited_each_by_itself(llama, tokenizer):
    method = method_for(ALL[0], llama)
    pairs = zip(
        *(each(llama, tokenizer, requests(3), 1) for each in (method.compute_groups, method.compute_each)), strict=True
    )
    for one, other in pairs:
        assert all(torch.equal(one.matrix(name), other.matrix(name)) for name in other.updates)


def test_a_group_that_contradicts_itself(llama, tokenizer):
    asked = [replace(requests(1)[0], group="a", target_new=new) for new in ("Oslo", "Lyon")]
    method = method_for(ALL[0], llama)
    with pytest.raises(DataError, match="contradict each other"):
        method.compute_groups(llama, tokenizer, asked, 1)
    assert len(method.compute_groups(llama, tokenizer, [replace(asked[0], group=None), asked[1]], 1)) == 2


def test_independent_edits_score_a_group_with_its_edit(llama, tokenizer):
    method, asked = method_for(ALL[0], llama), grouped()
    config = EvaluationConfig(generate=False)
    scored = Independent(method, llama, tokenizer, [1], config).step(range(5), asked)
    by_hand = Independent(method, llama, tokenizer, [1], config)
    pair = [asked[1], asked[3]]
    together = by_hand.score([1, 3], pair, [method.compute(llama, tokenizer, pair, 1)] * 2)
    for row, place in enumerate((1, 3)):
        for one, other in zip(scored.results[place], together.results[row], strict=True):
            assert one.scores["token"] == other.scores["token"]


def test_one_adapter_for_a_group(tmp_path, llama, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = grouped()
    rows = [to_record(asked[place]) for place in (0, 1, 3, 2, 4)]
    data = EditDataModule(str(write_rows(tmp_path / "facts.jsonl", rows)), batch_size=2)
    module = LGAModule(model=llama, tokenizer=tokenizer, layer=1, editor=method_for(ALL[0], llama), mode="independent")
    writer = AdapterWriter(output=str(tmp_path / "edits"), generate=False)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[writer])
    trainer.predict(module, data, return_predictions=False)
    assert sorted(folder.name[:4] for folder in (tmp_path / "edits").iterdir()) == ["0000", "0001", "0003"]
    assert writer.result.num_requests == 5


def test_a_dataloader_of_ones_own_keeps_groups_that_share_a_batch(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = LGAModule(
        model=llama,
        tokenizer=tokenizer,
        layer=1,
        editor=method_for(ALL[0], llama),
        mode="independent",
        evaluation=EvaluationConfig(generate=False),
    )
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (edits,) = trainer.predict(module, DataLoader(grouped(), batch_size=5))
    assert edits.deltas[1] is edits.deltas[3]
