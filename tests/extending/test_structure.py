"""The page "Add an odd family": its code, from outside the package, on the command line."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

from lga_lightning.cli import run
from lga_lightning.exceptions import ModelError
from lga_lightning.models import structure as structures
from lga_lightning.models.architecture import edit_site
from tests.helpers.data import write_rows
from tests.helpers.families import FAMILIES
from tests.helpers.models import VOCABULARY, requests, tiny_tokenizer
from tests.helpers.pages import extension


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The page's module, imported once: transformers takes each model type once."""
    folder = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module(extension(folder, "extending/structure.md", "odd"))


@pytest.fixture
def arguments(odd, tmp_path, monkeypatch):
    """Of a verb on a tiny odd model."""
    monkeypatch.setattr(structures, "_REGISTERED", {})
    monkeypatch.setattr(sys, "argv", ["lga"])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {**FAMILIES["llama"], "initializer_range": 0.2}
    config = odd.OddConfig(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **sizes)
    odd.OddForCausalLM(config).save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    rows = [
        {name: getattr(request, name) for name in ("prompt", "subject", "target_new", "target_old")}
        for request in requests(4)
    ]
    write_rows(tmp_path / "facts.jsonl", rows)
    return [
        "--model.model_name=model",
        "--data.requests=facts.jsonl",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]


def test_the_general_rules_refuse_it(arguments):
    with pytest.raises(
        ModelError, match=r"'odd'\), found 2 \(model.layers.0.mlp.down_proj, model.layers.0.mlp.shortcut"
    ):
        run(["fit", *arguments])


def test_the_page_works_on_the_command_line(odd, arguments, tmp_path):
    structure = "--model.structure=extras.odd.OddStructure"
    model = run(["fit", *arguments, structure]).model
    found = json.loads((tmp_path / "attribution.json").read_text())
    assert found["num_requests"] == 4
    assert len(found["scores"]) == 4
    assert all(score != 0 for score in found["scores"])
    site = edit_site(model.llm, found["golden_layer"])
    assert type(model.llm) is odd.OddForCausalLM
    assert site.name == f"model.layers.{found['golden_layer']}.mlp.down_proj"
    assert site.norm is model.llm.model.layers[site.layer].mlp.exit_norm

    quick = ["--model.editor.contexts_each=1", "--model.editor.context_lengths=[3]", "--edits.generate=false"]
    run(["validate", *arguments, structure, *quick, "--model.editor.second_moment=identity"])
    edits = json.loads((tmp_path / "validation.json").read_text())
    assert edits["layers"] == [found["golden_layer"]]
    assert edits["metrics"]["counterfact.EM"]["after"] > edits["metrics"]["counterfact.EM"]["before"]
