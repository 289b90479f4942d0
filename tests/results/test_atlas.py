"""The atlas: what is in it, what it says of a model, and how an entry gets there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaConfig

from lga_lightning import LGA, MEMIT, PMET, RROME, RaceSettings, edit, find_golden_layer
from lga_lightning.callbacks import ScoreCollector
from lga_lightning.exceptions import LayerError, SettingError
from lga_lightning.models.architecture import signature
from lga_lightning.results.atlas import ATLAS_FOLDER, AtlasEntry, AtlasPage, atlas_layers, read_atlas
from lga_lightning.results.layer_spec import LayerSpec
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model
from tests.helpers.results import forecast_result, likely_parts, race_result
from tests.helpers.runs import module, trainer

ROOT = Path(__file__).parents[2]
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def shaped(name: str, blocks: int = 30):
    """A model of SmolLM2's shape, without weights."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=100,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.config.name_or_path = name
    return model


@pytest.mark.parametrize("path", sorted(ATLAS_FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_figure_is_in_the_page_that_it_is_from(path):
    page = AtlasPage.load(path)
    assert page.entries
    for entry in page.entries:
        assert entry.layers[-1] < page.signature[1]
        if entry.source.startswith("docs/"):
            lines = (ROOT / entry.source).read_text(encoding="utf-8").splitlines()
            interval = "" if entry.interval is None else f" [{entry.interval[0]}, {entry.interval[1]}]"
            figures = [f"{entry.score}{interval}", str(entry.layers[-1])]
            rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
            assert any(all(figure in row for figure in figures) for row in rows), entry


def test_there_is_one_page_a_model():
    names = [page.model for page in read_atlas()]
    assert SMOLLM2 in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("editor", "layers"),
    [(RROME(), [4]), (RROME(second_moment="identity"), [6]), (MEMIT(), [1, 2, 3, 4, 5])],
    ids=["C from text", "C = I", "a window"],
)
def test_the_layers_of_a_model_that_was_measured(editor, layers):
    found, source = LayerSpec.parse("atlas").find(Path(), "anything").layers_for(editor, shaped(SMOLLM2))
    assert found == layers
    assert source.startswith("atlas: sweep of ")
    assert SMOLLM2 in source


def test_a_fine_tune_is_told_whose_layer_it_gets():
    with pytest.warns(
        UserWarning, match=r"The atlas has no 'me/my-tune'.* good for a fine-tune of that, and not measured"
    ):
        found, source = atlas_layers(RROME(), shaped("me/my-tune"))
    assert found == [4]
    assert source.endswith(f"on {SMOLLM2}, 2026-11-22, whose shape me/my-tune has")


def test_what_the_atlas_lacks():
    with pytest.raises(LayerError, match=r"has neither 'me/other' nor a model of its shape, \('llama', 12, 1536\)"):
        atlas_layers(RROME(), shaped("me/other", 12))
    with pytest.raises(LayerError, match="it is another one of that name"):
        atlas_layers(RROME(), shaped(SMOLLM2, 12))
    with pytest.raises(LayerError, match="with FT-M, MEMIT, R-ROME, and not with PMET"):
        atlas_layers(PMET(), shaped(SMOLLM2))
    page = next(page for page in read_atlas() if page.model == SMOLLM2)
    twelve = AtlasPage("me/twelve", ("llama", 12, 1536), page.entries)
    with pytest.raises(LayerError, match="it is another one of that name"):  # though there is one of its shape
        atlas_layers(RROME(), shaped(SMOLLM2, 12), [page, twelve])
    other = AtlasPage("me/twin", page.signature, page.entries)
    with pytest.raises(LayerError, match=r"several models of its shape: .*me/twin"):
        atlas_layers(RROME(), shaped("me/my-tune"), [page, other])


@pytest.mark.parametrize("verify", [None, RaceSettings(budget=4)], ids=["forecast", "race"])
def test_fit_leaves_an_entry_that_others_can_use(verify, tokenizer, tmp_path, capsys):
    scored = module(tokenizer)
    collector = ScoreCollector(atlas=True, verify=verify)
    trainer(tmp_path, collector).fit(scored, DataLoader(requests(4), batch_size=4))
    assert "atlas_entry.json" in capsys.readouterr().out
    page = AtlasPage.load(tmp_path / "atlas_entry.json")
    (entry,) = page.entries
    result = collector.result
    assert page.signature == signature(scored.llm)
    assert entry.layers == [result.golden_layer]
    assert entry.evidence == ("forecast" if verify is None else "race")
    assert entry.interval[0] <= entry.score <= entry.interval[1]
    assert (entry.method, entry.facts) == ("R-ROME", 4 if verify is None else result.race.requests)
    assert atlas_layers(scored.editor, scored.llm, [page])[0] == [result.golden_layer]


def test_an_entry_of_one_fact_survives_its_file(tokenizer, llama, tmp_path):
    result = find_golden_layer(llama, tokenizer, requests(1))
    page = AtlasPage.of(result, RROME(), llama)
    page.save(tmp_path / "page.json")
    assert AtlasPage.load(tmp_path / "page.json") == page
    assert page.entries[0].interval is None


def test_an_interval_ends_where_scores_do():
    race = race_result(2, [0, 1, 3, 2], scores=[50.0, 60.0, 99.0, 90.0], intervals=[(95.0, 103.0)] * 4)
    result = forecast_result(likely_parts(8, 4), race=race, versions={"lga-lightning": "1.0"})
    assert AtlasEntry.of(result, RROME()).interval == (95, 100)


def test_what_is_not_for_the_atlas_is_refused_before_anything_is_scored(tokenizer, tmp_path):
    scored = module(tokenizer, locator=LGA("mlp_out"))
    with pytest.raises(SettingError, match=r"LGA\('mlp_out'\) says nothing of edits by R-ROME"):
        trainer(tmp_path, ScoreCollector(atlas=True)).fit(scored, DataLoader(requests(2), batch_size=2))
    assert not (tmp_path / "attribution.json").exists()


def test_a_broken_page_is_named(tmp_path):
    content = json.loads(next(ATLAS_FOLDER.glob("*.json")).read_text())
    content["entries"][0]["evidence"] = "hearsay"
    (tmp_path / "page.json").write_text(json.dumps(content))
    with pytest.raises(LayerError, match=r"page\.json' is not a page of the atlas.*`evidence` must be one of"):
        read_atlas(tmp_path)
    content["entries"][0] |= {"evidence": "sweep", "score": "high"}
    (tmp_path / "page.json").write_text(json.dumps(content))
    with pytest.raises(LayerError, match=r"has 'high' as 'score', where float should be"):
        read_atlas(tmp_path)


def test_edits_in_python(tokenizer):
    with pytest.raises(LayerError, match="has neither 'LlamaForCausalLM' nor a model of its shape"):
        edit(tiny_model("llama"), tokenizer, requests(1), "atlas", RROME(**FAST_METHOD))


def test_the_table_is_made_of_the_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from atlas_page import PAGE, updated

    text = PAGE.read_text(encoding="utf-8")
    assert updated(text) == text, "run python benchmarks/atlas_page.py"
