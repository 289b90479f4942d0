"""A model in shards (FSDP2) and one of split matrices (tensor parallelism), on two processes: the results are those of the whole model on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pyarrow.parquet
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lga_lightning import RROME, EditDataModule, LGAModule
from tests.helpers.cli import FAST_METHOD
from tests.helpers.data import rows, write_rows
from tests.helpers.models import tiny_model, tiny_tokenizer
from tests.helpers.sharded import FAMILIES, KINDS, PASSES, PLANS, count_moments, run_verbs, trainer

pytestmark = pytest.mark.timeout(900)  # two processes that import everything, on a busy machine

TOLERANCE = {"rel": 1e-4, "abs": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process has left, and what two have."""
    folder = tmp_path_factory.mktemp("shards")
    write_rows(folder / "requests.jsonl", rows(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache of whole"))
        for family in PLANS:
            tiny_model(family).save_pretrained(folder / family)
            tiny_tokenizer().save_pretrained(folder / family)
            run_verbs(folder, family)
        count_moments(folder)
    module = LGAModule(str(folder / "llama"), editor=RROME(**FAST_METHOD))
    data = EditDataModule(str(folder / "requests.jsonl"), batch_size=2)
    trainer(folder / "half", "whole", limit_train_batches=1).fit(module, datamodule=data)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            "-m",
            "tests.helpers.sharded",
            folder,
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # or it would look through all fonts
        },
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-20000:]
    return folder


def left(folder: Path, kind: str, family: str, name: str) -> tuple[dict, dict]:
    """A result file of one process, and that of two."""
    one, two = (json.loads((folder / which / family / name).read_text()) for which in ("whole", kind))
    return one, two


EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EVERY_RUN = pytest.mark.parametrize(("kind", "family"), [(kind, family) for kind in KINDS for family in FAMILIES[kind]])


@EVERY_RUN
def test_scores_are_the_same(kind, family, folder):
    one, two = left(folder, kind, family, "attribution.json")
    assert two["weights"] == one["weights"]
    assert two["golden_layer"] == one["golden_layer"]
    assert two["scores"] == pytest.approx(one["scores"], **TOLERANCE)
    assert two["num_requests"] == one["num_requests"] == 5


@pytest.mark.parametrize(("kind", "family"), [("shards", "gpt2"), ("shards", "llama"), ("split", "llama")])
def test_edits_and_what_they_do_are_the_same(kind, family, folder):
    one, two = left(folder, kind, family, "validation.json")
    for name, metric in one["metrics"].items():
        for when in ("before", "after"):
            assert two["metrics"][name][when] == pytest.approx(metric[when], **TOLERANCE), name
    assert [request["prompt"] for request in two["requests"]] == [request["prompt"] for request in one["requests"]]
    said, also = (pyarrow.parquet.read_table(folder / which / family / "requests.parquet") for which in ("whole", kind))
    assert also.column_names == said.column_names
    assert also.num_rows == said.num_rows
    for part in ("drift", "change"):
        assert flat(two.get(part)) == pytest.approx(flat(one.get(part)), **TOLERANCE)


@EVERY_KIND
def test_adapters_are_the_same(kind, folder):
    one, two = left(folder, kind, "gemma3_text", "adapter/lga.json")
    assert two["edited"] == one["edited"]  # with the hashes of the weights
    for name, metric in one["metrics"].items():
        assert two["metrics"][name]["after"] == pytest.approx(metric["after"], **TOLERANCE), name
    one, two = (
        load_file(folder / which / "gemma3_text/adapter/adapter_model.safetensors") for which in ("whole", kind)
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)


def test_merged_models_are_the_same(folder):
    one, two = (AutoModelForCausalLM.from_pretrained(folder / kind / "gpt2/merged") for kind in ("whole", "shards"))
    base = AutoModelForCausalLM.from_pretrained(folder / "gpt2").state_dict()
    assert type(one) is type(two)
    edited = one.state_dict()
    assert any(not torch.equal(edited[name], base[name]) for name in base)
    for name, weight in two.state_dict().items():
        torch.testing.assert_close(weight, edited[name], rtol=1e-4, atol=1e-6)


@EVERY_RUN
def test_there_is_one_set_of_files(kind, family, folder):
    one, two = (
        {path.relative_to(root) for path in root.rglob("*")}
        for root in (folder / "whole" / family, folder / kind / family)
    )
    assert two == one


@EVERY_KIND
def test_second_moments_are_the_same(kind, folder):
    one, two = (sorted((folder / f"cache of {which}").rglob("*.safetensors")) for which in ("whole", kind))
    names = [f"{path.parent.name}/{path.name}" for path in one]  # with the weights' hash, and everything else
    assert [f"{path.parent.name}/{path.name}" for path in two] == names
    assert len(names) == 5  # of all layers of one model, and of one layer that was asked for
    for path, other in zip(one, two, strict=True):
        torch.testing.assert_close(load_file(path), load_file(other))
        with safe_open(path, "pt") as note, safe_open(other, "pt") as too:
            assert note.metadata()["counted"] == too.metadata()["counted"]


def test_what_one_process_has_begun_two_finish(folder):
    whole, resumed = (
        json.loads((folder / name / "attribution.json").read_text()) for name in ("whole/llama", "resumed")
    )
    assert resumed["num_requests"] == 5
    assert resumed["scores"] == pytest.approx(whole["scores"], **TOLERANCE)  # of which one checkpoints its activations


@pytest.mark.parametrize("family", PASSES)
def test_split_matrices_give_what_whole_ones_give(family, folder):
    differences = json.loads((folder / "passes.json").read_text())[family]
    assert differences.pop("part") < 0.6  # of the model's weights
    assert set(differences) == {"key", "value", "gradient", "logits", "scores", "edit", "edited"}
    assert max(differences.values()) < 1e-9, differences


def flat(content: object) -> list[float]:
    """The numbers in JSON content, in order."""
    if isinstance(content, dict | list):
        return [
            number for part in (content.values() if isinstance(content, dict) else content) for number in flat(part)
        ]
    return [content] if isinstance(content, int | float) else []
