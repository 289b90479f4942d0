"""Which requests are kept: limits, samples, relations, and splits in which no subject is on both sides."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest

from lga_lightning.data import load_requests
from lga_lightning.data.requests import EditRequest, units_of
from lga_lightning.data.selection import split_of, take
from lga_lightning.exceptions import DataError
from lga_lightning.modules.datamodule import EditDataModule

MANY = [EditRequest(f"Town {i % 40} has {i}", f"Town {i % 40}", "x", relation=f"P{i % 4}") for i in range(200)]


@pytest.fixture
def path(tmp_path):
    rows = [
        {"prompt": r.prompt, "subject": r.subject, "target_new": r.target_new, "relation": r.relation} for r in MANY
    ]
    (tmp_path / "facts.json").write_text(json.dumps(rows))
    return tmp_path / "facts.json"


def prompts(requests: list[EditRequest]) -> list[str]:
    return [request.prompt for request in requests]


def test_without_a_seed_the_order_is_the_files():
    assert take(units_of(MANY)) == MANY
    assert take(units_of(MANY), 7) == MANY[:7]
    assert take(units_of(MANY), 999) == MANY


def test_a_seed_gives_a_sample_that_knows_no_order():
    shuffled = random.Random(0).sample(MANY, len(MANY))
    whole = take(units_of(MANY), seed=3)
    assert sorted(prompts(whole)) == sorted(prompts(MANY))
    assert whole not in (MANY, take(units_of(MANY), seed=4))
    assert take(units_of(shuffled), seed=3) == whole
    for limit in (1, 10, 199):
        assert take(units_of(shuffled), limit, seed=3) == whole[:limit]


def test_a_sample_is_even():
    counts = [0] * len(MANY)
    for seed in range(100):
        for request in take(units_of(MANY), 50, seed):
            counts[int(request.prompt.rsplit(" ", 1)[1])] += 1
    assert 8 <= min(counts) < max(counts) <= 45  # of 100, 25 expected, standard deviation 4.3


def test_repeated_requests_are_no_trouble():
    assert len(take(units_of([MANY[0]] * 5), 3, seed=0)) == 3


def test_splits_depend_on_the_subject_alone(path):
    loaded = {split: load_requests(path, split=split, proxy_share=0.3) for split in ("proxy", "test")}
    subjects = {split: {request.subject for request in found.requests} for split, found in loaded.items()}
    assert not subjects["proxy"] & subjects["test"]
    assert len(subjects["proxy"]) + len(subjects["test"]) == 40
    assert sum(len(found.requests) for found in loaded.values()) == 200
    assert 4 <= len(subjects["proxy"]) <= 20
    for split, found in loaded.items():
        assert {request.split for request in found.requests} == {split}
        assert found.filtered == {"of the other split": 200 - len(found.requests)}


def test_writing_a_subject_otherwise_changes_nothing():
    for subject in ("Malmö FF", "東京", "İstanbul"):
        spellings = [subject, f"  {subject} ", subject.replace(" ", " \t"), subject.upper(), "Malmo\u0308 FF"]
        for share in (0.1, 0.5, 0.9):
            same = spellings if subject == "Malmö FF" else spellings[:3]
            assert len({split_of(spelling, share) for spelling in same}) == 1


def test_a_larger_share_only_adds():
    names = [f"name {i}" for i in range(500)]
    proxies = [{name for name in names if split_of(name, share) == "proxy"} for share in (0.1, 0.4, 0.8)]
    assert proxies[0] < proxies[1] < proxies[2]
    assert [round(len(found) / 500, 1) for found in proxies] == [0.1, 0.4, 0.8]


def test_another_process_splits_and_samples_the_same(path):
    code = (
        "import sys; from lga_lightning.data import load_requests;"
        "print([r.prompt for r in load_requests(sys.argv[1], split='test', proxy_share=0.5, seed=1, limit=9).requests])"
    )
    expected = prompts(load_requests(path, split="test", proxy_share=0.5, seed=1, limit=9).requests)
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.strip() == str(expected)


def test_a_split_of_the_datas_own_stays(tmp_path):
    rows = [{"prompt": f"Town {i}", "subject": f"Town {i}", "target_new": "x", "split": "test"} for i in range(9)]
    (tmp_path / "facts.json").write_text(json.dumps(rows))
    assert len(load_requests(tmp_path / "facts.json", split="test", proxy_share=0.99).requests) == 9


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(DataError, match=r"`proxy_share` must be between 0 and 1, got"):
        load_requests(proxy_share=share)


def test_relations(path):
    loaded = load_requests(path, relations=["P1", "P3"], limit=60)
    assert {request.relation for request in loaded.requests} == {"P1", "P3"}
    assert len(loaded.requests) == 60
    assert not loaded.skipped
    with pytest.raises(
        DataError, match=r"no usable request of the relations \['P9'\]: it has 'P0', 'P1', 'P2', 'P3'\."
    ):
        load_requests(path, relations=["P9"])


def test_relations_of_records_that_name_none(tmp_path):
    (tmp_path / "facts.json").write_text('[{"prompt": "Rome is", "subject": "Rome", "target_new": "x"}]')
    with pytest.raises(DataError, match="its records name none"):
        load_requests(tmp_path / "facts.json", relations=["P9"])


def test_the_data_module_passes_everything_on(path):
    data = EditDataModule(str(path), limit=5, relations=["P2"], seed=1, proxy_share=0.5)
    for stage, split in (("fit", "proxy"), ("validate", "test")):
        data.setup(stage)
        expected = load_requests(path, limit=5, relations=["P2"], seed=1, proxy_share=0.5, split=split)
        assert data.loaded.requests == expected.requests
    before = data.run_data().fingerprint
    data.chat_template = True
    assert data.run_data().fingerprint != before
    assert data.name == "facts.json, in the chat template"
