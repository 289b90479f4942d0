"""``EditReport`` and ``AdapterWriter`` of one's own, side by side in one trainer."""

from __future__ import annotations

import json

from torch.utils.data import DataLoader

from lga_lightning.callbacks import AdapterWriter, EditReport
from tests.helpers.models import requests
from tests.helpers.runs import module, trainer


class Mine(EditReport):
    """A report of somebody's own."""


def test_two_reports_see_the_edits_made_once(tokenizer, tmp_path):
    contents, loader = [], DataLoader(requests(3), batch_size=2)
    for reports in ([Mine(generate=False)], [EditReport(generate=False), Mine(generate=False)]):
        runner = trainer(tmp_path, *reports)
        runner.validate(module(tokenizer, mode="batch"), loader, verbose=False)
        assert [one for one in runner.callbacks if isinstance(one, EditReport)] == reports  # and none joins
        contents.append(json.loads((tmp_path / "validation.json").read_text()))
    assert contents[0] == contents[1]
    assert [point["edits"] for point in contents[0]["drift"]] == [1, 3]


def test_each_verb_asks_its_own_collector(tokenizer, tmp_path):
    """A writer that joins takes no report away, and what is measured is what the verb's own says."""
    report, writer = EditReport(generate=False), AdapterWriter(generate=True, max_new_tokens=2)
    edited, loader = module(tokenizer, mode="batch"), DataLoader(requests(2), batch_size=2)
    runner = trainer(tmp_path, report, writer)
    runner.validate(edited, loader, verbose=False)
    runner.predict(edited, loader)
    assert (report.result.metrics["rewrite"].others, [*writer.result.metrics["rewrite"].others]) == (
        {},
        ["generated", "begins", "contained"],
    )

    alone = trainer(tmp_path / "alone", report)
    alone.predict(edited, loader)
    assert [type(one) for one in alone.callbacks] == [EditReport, AdapterWriter]
