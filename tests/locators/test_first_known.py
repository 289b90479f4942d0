"""The first facts that a model knows."""

from __future__ import annotations

import torch

from lga_lightning.locators import base
from tests.helpers.models import requests


def test_no_more_are_asked_than_it_takes(llama, tokenizer, monkeypatch):
    asked, facts = [], requests(8)
    known = {facts[row].prompt for row in (1, 2, 4, 7)}

    def knows(model, tokenizer, batch):
        asked.extend(request.prompt for request in batch)
        return torch.tensor([request.prompt in known for request in batch])

    monkeypatch.setattr(base, "knows_old_answer", knows)
    assert base.first_known(llama, tokenizer, facts, 2, batch_size=3) == [facts[1], facts[2]]
    assert len(asked) == 3
    assert base.first_known(llama, tokenizer, facts, 9, batch_size=3) == [facts[row] for row in (1, 2, 4, 7)]
    assert base.first_known(llama, tokenizer, [], 9) == []
