"""Tasks of lm-evaluation-harness before and after edits, against plain loops; an offline task of our own."""

from __future__ import annotations

import importlib.metadata
import json
import random
from itertools import accumulate

import pytest
import torch

from lga_lightning.callbacks import EditReport
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.evaluation.harness import check_harness, run_harness
from lga_lightning.exceptions import SettingError
from lga_lightning.modules.datamodule import EditDataModule
from tests.helpers.data import rows, write_rows
from tests.helpers.edits import random_edits
from tests.helpers.models import tiny_model
from tests.helpers.runs import module, trainer

ITEMS = [
    {"question": f"{name} is in", "choices": ["x", "y", "z"], "label": number % 3}
    for number, name in enumerate(["Rome", "Oslo", "Tokyo", "Milan", "Bergen", "Osaka", "A", "Of old", "Zoë", "In it"])
]
TASK = """task: places
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def tasks(tmp_path):
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'lga-lightning[harness]'")
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = write_rows(tmp_path / "places.jsonl", ITEMS)
    (folder / "places.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    return folder


def accuracy(model, tokenizer, items) -> float:
    """Share of items whose right choice has the highest summed log-likelihood: one row a pass."""
    right = 0
    for item in items:
        sums = []
        for choice in item["choices"]:
            head = tokenizer(item["question"])["input_ids"]
            whole = tokenizer(f"{item['question']} {choice}")["input_ids"]
            log_p = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            sums.append(sum(log_p[place - 1, whole[place]].item() for place in range(len(head), len(whole))))
        right += max(range(3), key=sums.__getitem__) == item["label"]
    return right / len(items)


def test_an_offline_task_before_and_after(tasks, tokenizer):
    model = tiny_model("llama")
    delta = next(delta for delta in sums(random_edits(model, 8, layer=3)) if differs(model, tokenizer, delta))
    states = random.getstate(), torch.get_rng_state()
    entries = run_harness(model, tokenizer, ["places"], delta, tasks, resamples=50)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    entry = entries["places/acc"]
    with delta.applied(model):
        after = accuracy(model, tokenizer, ITEMS)
    assert (entry["before"], entry["after"]) == pytest.approx((accuracy(model, tokenizer, ITEMS), after))
    assert entry["num_items"] == len(ITEMS)
    assert entry["before_ci"][0] <= entry["before"] <= entry["before_ci"][1]
    assert run_harness(model, tokenizer, ["places"], delta, tasks, limit=2)["places/acc"]["num_items"] == 2


def sums(deltas):
    """Larger and larger edits."""
    return accumulate([*deltas, *deltas], WeightDelta.__add__)


def differs(model, tokenizer, delta: WeightDelta) -> bool:
    with delta.applied(model):
        after = accuracy(model, tokenizer, ITEMS)
    return after != accuracy(model, tokenizer, ITEMS)


def test_batches_change_nothing_and_neither_does_no_edit(tasks, tokenizer):
    model = tiny_model("llama", torch.float64)
    one, all_at_once = (
        run_harness(model, tokenizer, ["places"], WeightDelta({}), tasks, batch_size=rows) for rows in (1, 64)
    )
    assert one == all_at_once
    assert one["places/acc"]["before"] == one["places/acc"]["after"]


def test_results_reach_the_files(tasks, tmp_path, tokenizer):
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(4))), batch_size=2)
    report = EditReport(generate=False, resamples=10, general=False, harness=["places"], harness_path=str(tasks))
    trainer(tmp_path, report).validate(module(tokenizer, mode="batch"), datamodule=data, verbose=False)
    content = json.loads((tmp_path / "validation.json").read_text())
    assert content["harness"]["scores"]["places/acc"]["num_items"] == len(ITEMS)
    assert f"places of lm-evaluation-harness {importlib.metadata.version('lm-eval')}" in content["harness"]["asked"]
    assert "places/acc" in (tmp_path / "report.html").read_text()
    assert "general" not in content


def test_tasks_that_are_not_there(tasks):
    with pytest.raises(SettingError, match=r"no task 'nowhere'.*--edits.harness_path"):
        check_harness(["places", "nowhere"], tasks)
    with pytest.raises(SettingError, match="must be a folder"):
        check_harness(["places"], tasks / "nowhere")


def test_without_the_package(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(SettingError, match=r"pip install 'lga-lightning\[harness\]'"):
        check_harness(["mmlu"])


def test_edits_that_are_each_made_alone_have_no_one_model(tmp_path, tokenizer):
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(2))))
    with pytest.raises(SettingError, match=r"--model\.mode batch"):
        trainer(tmp_path, EditReport(harness=["mmlu"])).validate(module(tokenizer), datamodule=data)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"harness_limit": 3}, "names none"),
        ({"harness_path": "x"}, "names none"),
        ({"harness": ["a"], "harness_limit": 0}, "least 1"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(SettingError, match=said):
        EditReport(**settings)
