"""Edits alone, together and one after the other, through a Trainer; what `predict` writes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lga_lightning.callbacks import AdapterWriter, EditReport
from lga_lightning.covariance.estimate import find_covariances
from lga_lightning.covariance.store import load_covariance
from lga_lightning.editing import FTM, CrispEdit, LocFT, WeightDelta
from lga_lightning.editing.serving import check_servable
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.exceptions import DataError, LGAError, SettingError
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.edit_schedule import milestones
from lga_lightning.modules.moments import MomentsModule
from lga_lightning.reports.wording import mode_in_words
from lga_lightning.results.validation import ValidationResult
from lga_lightning.results.validation_parts import means_after
from tests.helpers.data import rows, write_rows
from tests.helpers.models import tiny_model
from tests.helpers.runs import module, trainer

COUNT = 13
EDITED = "model.layers.1.mlp.down_proj"


@pytest.fixture
def data(tmp_path) -> EditDataModule:
    return EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(COUNT))), batch_size=3)


def validate(tmp_path, made, data) -> dict:
    before = {name: tensor.clone() for name, tensor in made.llm.state_dict().items()}
    report = EditReport(generate=False, resamples=10)
    trainer(tmp_path, report).validate(made, datamodule=data, verbose=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.llm.state_dict().items())
    content = json.loads((tmp_path / "validation.json").read_text())
    content.pop("growth", None)  # no two runs take the same time
    del content["checksum"]
    return content


def test_batch_mode_edits_all_and_scores_afterwards(tmp_path, data, tokenizer):
    made = module(tokenizer, mode="batch")
    content = validate(tmp_path, made, data)
    requests = data.loaded.requests
    delta = made.editor.compute(made.llm, tokenizer, requests, 1)
    torch.testing.assert_close(made.schedule.delta.matrix(EDITED), delta.matrix(EDITED), rtol=1e-4, atol=1e-5)
    outcomes = evaluate(made.llm, tokenizer, requests, [made.schedule.delta] * COUNT, EvaluationConfig(generate=False))
    expected = [next(one.scores["token"][1] for one in of_request if one.group == "rewrite") for of_request in outcomes]
    assert [row["rewrite"]["after"] for row in content["requests"]] == pytest.approx(expected)
    assert [row["prompt"] for row in content["requests"]] == [request.prompt for request in requests]
    assert [point["edits"] for point in content["drift"]] == [1, 10, 13]
    assert (content["mode"], content["group_size"], content["layers"]) == ("batch", 13, [1])
    first = made.editor.compute(made.llm, tokenizer, requests[:1], 1)
    size = first.matrix(EDITED).norm() / made.llm.model.layers[1].mlp.down_proj.weight.norm()
    assert content["drift"][0]["relative_change"]["1"] == pytest.approx(size.item(), rel=1e-3)


def test_sequential_mode_edits_groups_in_order(tmp_path, data, tokenizer):
    made = module(tokenizer, mode="sequential")
    content = validate(tmp_path, made, data)
    run = EditSession(made.editor, made.llm, tokenizer, 1)
    for start in range(0, COUNT, 3):
        run.edit(data.loaded.requests[start : start + 3])
    torch.testing.assert_close(made.schedule.delta.matrix(EDITED), run.delta.matrix(EDITED))
    assert [point["edits"] for point in content["drift"]] == [3, 12, 13]
    assert all({"rewrite", "rephrase", "locality", "relative_change"} < set(point) for point in content["drift"])
    assert (content["mode"], content["group_size"]) == ("sequential", 3)


def test_a_second_run_begins_anew(tmp_path, data, tokenizer):
    made = module(tokenizer, mode="sequential")
    assert validate(tmp_path, made, data) == validate(tmp_path, made, data)


@pytest.mark.parametrize("mode", ["batch", "sequential"])
def test_some_of_many_are_scored(mode, tmp_path, data, tokenizer):
    whole = validate(tmp_path, module(tokenizer, mode=mode), data)
    report = EditReport(generate=False, resamples=10, scored=5)
    made = module(tokenizer, mode=mode)
    trainer(tmp_path / "some", report).validate(made, datamodule=data, verbose=False)
    found = ValidationResult.load(tmp_path / "some" / "validation.json")
    assert (found.num_requests, found.num_scored) == (COUNT, 5)
    assert "num_scored" not in whole
    drawn = EvaluationConfig(scored=5).drawn(range(COUNT))
    every = [row["rewrite"]["after"] for row in whole["requests"]]
    assert [row.scores["rewrite"]["after"] for row in found.requests] == pytest.approx([every[n] for n in drawn])
    assert [row.prompt for row in found.requests] == [data.loaded.requests[n].prompt for n in drawn]
    assert [point.edits for point in found.drift] == [point["edits"] for point in whole["drift"]]
    assert found.group_size == whole["group_size"]
    assert "5 of them, drawn at random, scored" in mode_in_words(found)
    for cohort, wanted in zip(
        found.cohorts or [], whole.get("cohorts", []), strict=True
    ):  # all of their facts are asked
        for point, one in zip(cohort.to_dict()["points"], wanted["points"], strict=True):
            assert point == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("mode", ["batch", "sequential"])
def test_looks_in_between_ask_those_drawn_of_the_facts_so_far(mode, tmp_path, data, tokenizer):
    made = module(tokenizer, mode=mode)
    trainer(tmp_path, EditReport(generate=False, resamples=10, scored=5)).validate(made, datamodule=data, verbose=False)
    [count, point] = [(point.edits, point) for point in made.schedule.drift][-1]
    requests = data.loaded.requests
    session = EditSession(made.editor, made.llm, tokenizer, 1)
    size = 3 if mode == "sequential" else count
    for start in range(0, count, size):
        session.edit(requests[start : start + size])
    some = [requests[place] for place in EvaluationConfig(scored=5).drawn(range(count))]
    assert (count, len(some)) == (12 if mode == "sequential" else 10, 5)
    results = evaluate(made.llm, tokenizer, some, [session.delta] * 5, EvaluationConfig(generate=False))
    assert point.scores == pytest.approx(means_after(results), abs=1e-5)
    assert point.scores != pytest.approx(means_after(results[1:]), abs=1e-5)


def test_an_adapter_of_which_some_facts_are_scored_holds_all(tmp_path, data, tokenizer):
    made = module(tokenizer, mode="sequential")
    predict(tmp_path, made, data, scored=5, max_rank=3)
    page = (tmp_path / "adapter" / "README.md").read_text()
    assert "13 edited facts" in page
    assert "Scores of 5 of the facts, drawn at random" in page
    assert all(request.prompt in page for request in data.loaded.requests)
    note = json.loads((tmp_path / "adapter" / "lga.json").read_text())
    assert (len(note["requests"]), note["num_requests"]) == (5, COUNT)
    assert len(WeightDelta.load(tmp_path / "adapter").facts.requests) == COUNT


def test_an_edit_alone_is_scored(tmp_path, data, tokenizer):
    report = EditReport(generate=False, scored=5)
    with pytest.raises(SettingError, match="`scored` is for requests that are edited together"):
        trainer(tmp_path, report).validate(module(tokenizer, mode="independent"), datamodule=data, verbose=False)
    with pytest.raises(SettingError, match="`scored` must be at least 1, got 0"):
        EditReport(scored=0)


@pytest.mark.parametrize("mode", ["batch", "sequential"])
def test_contradictions(mode, tmp_path, tokenizer, monkeypatch):
    found = rows(4)
    found.insert(2, {**found[1], "target_new": "Atlantis"})
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", found)), batch_size=2)
    if mode == "sequential":  # they are not in the same group: the later one holds
        validate(tmp_path, module(tokenizer, mode=mode), data)
        data.batch_size = 3
    made = module(tokenizer, mode=mode)
    monkeypatch.setattr(made.editor, "optimize_targets", pytest.fail)  # nothing is edited before
    with pytest.raises(DataError, match=r"requests.jsonl, line 2 and requests.jsonl, line 3.*'Atlantis'"):
        validate(tmp_path, made, data)


def test_contradictions_that_a_limit_leaves_out(tmp_path, tokenizer):
    found = [*rows(4), {**rows(4)[0], "target_new": "Atlantis"}]
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", found)), batch_size=2)
    limited = trainer(tmp_path, EditReport(generate=False, resamples=10, general=False), limit_val_batches=2)
    limited.validate(module(tokenizer, mode="batch"), datamodule=data, verbose=False)
    assert json.loads((tmp_path / "validation.json").read_text())["num_requests"] == 4


@pytest.mark.parametrize(("layer", "layers"), [("1-3", [1, 2, 3]), ([3, 1], [1, 3]), ("default", [1]), ("2", [2])])
def test_ways_to_name_layers(layer, layers, tmp_path, data, tokenizer):
    data.limit = 2
    assert validate(tmp_path, module(tokenizer, layer=layer), data)["layers"] == layers


def test_layers_that_are_not_there(tmp_path, data, tokenizer):
    for layer, said in (("2-9", "Layer 4 is out of range"), ("3-1", "empty"), ("nowhere", "no attribution")):
        with pytest.raises(LGAError, match=said):
            validate(tmp_path, module(tokenizer, layer=layer), data)


def predict(tmp_path, made, data, **settings) -> None:
    trainer(tmp_path, AdapterWriter(generate=False, resamples=10, **settings)).predict(made, datamodule=data)


def logits(model) -> torch.Tensor:
    return model(input_ids=torch.arange(5, 25).view(2, 10)).logits


def test_predict_writes_an_adapter_that_peft_loads(tmp_path, data, tokenizer, capsys):
    made = module(tokenizer)
    predict(tmp_path, made, data)
    assert made.run_mode == "batch"
    adapted = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "adapter")
    with made.schedule.delta.applied(made.llm):
        torch.testing.assert_close(logits(adapted), logits(made.llm), rtol=1e-4, atol=1e-4)
    note = json.loads((tmp_path / "adapter" / "lga.json").read_text())
    assert note["method"]["name"] == "R-ROME"
    assert len(note["requests"]) == COUNT
    page = (tmp_path / "adapter" / "README.md").read_text()
    assert "13 edited facts" in page
    assert "layer 1" in page
    assert data.loaded.requests[3].prompt in page
    assert (
        f"| rewrite | {note['metrics']['rewrite']['before']:.3f} | {note['metrics']['rewrite']['after']:.3f} |" in page
    )
    assert str(tmp_path / "adapter") in capsys.readouterr().out.replace("\n", "")
    with pytest.raises(SettingError, match="is there already"):
        predict(tmp_path, module(tokenizer), data)
    predict(tmp_path, module(tokenizer, layer=2), data, overwrite=True)
    assert list(WeightDelta.load(tmp_path / "adapter").updates) == ["model.layers.2.mlp.down_proj"]


def test_predict_writes_a_folder_a_request(tmp_path, data, tokenizer):
    made = module(tokenizer, mode="independent")
    predict(tmp_path, made, data, output=str(tmp_path / "out"))
    folders = sorted((tmp_path / "out").iterdir())
    assert [int(folder.name[:4]) for folder in folders] == list(range(COUNT))
    delta = made.editor.compute(made.llm, tokenizer, data.loaded.requests[4:5], 1)
    loaded = WeightDelta.load(folders[4], made.llm)
    torch.testing.assert_close(loaded.matrix(EDITED), delta.matrix(EDITED), rtol=1e-4, atol=1e-5)
    assert data.loaded.requests[4].prompt in (folders[4] / "README.md").read_text()
    assert "1 edited fact in" in (folders[4] / "README.md").read_text()


def test_predict_merges(tmp_path, data, tokenizer):
    made = module(tokenizer)
    before = logits(made.llm)
    predict(tmp_path, made, data, merge=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with made.schedule.delta.applied(made.llm):
        torch.testing.assert_close(logits(merged), logits(made.llm))
    assert torch.equal(logits(made.llm), before)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    assert "in the weights" in (tmp_path / "merged" / "README.md").read_text()


def test_predict_writes_dense_edits_as_matrices(tmp_path, data, tokenizer):
    made = module(tokenizer, editor=FTM(steps=2))
    predict(tmp_path, made, data)
    assert (tmp_path / "adapter" / "delta.safetensors").is_file()
    assert "not a LoRA adapter" in (tmp_path / "adapter" / "README.md").read_text()
    again = WeightDelta.load(tmp_path / "adapter", made.llm)
    assert torch.equal(again.matrix(EDITED), made.schedule.delta.matrix(EDITED))


@pytest.mark.parametrize("mode", ["independent", "batch"])
def test_predict_writes_edits_of_a_lower_rank(mode, tmp_path, data, tokenizer, capsys):
    made = module(tokenizer, editor=LocFT(epochs=2, learning_rate=1e-2), mode=mode)
    writer = AdapterWriter(generate=False, resamples=10, max_rank=3)
    trainer(tmp_path, writer).predict(made, datamodule=data)
    folders = [tmp_path / "adapter"] if mode == "batch" else sorted((tmp_path / "adapter").iterdir())
    errors = []
    for folder in folders:
        again, note = WeightDelta.load(folder, made.llm), json.loads((folder / "lga.json").read_text())
        assert again.ranks == {EDITED: 3}
        assert note["low_rank"]["max_rank"] == 3
        errors.append(note["low_rank"]["relative_error"][EDITED])
        assert f"up to {100 * errors[-1]:.2g}% of the change" in (folder / "README.md").read_text()
        page = (folder / "README.md").read_text()
        assert "after, as written" in page
        assert "--max-lora-rank 8" in page
        config = EvaluationConfig(generate=False)
        results = evaluate(made.llm, tokenizer, data.loaded.requests[:1], [again], config)
        if mode == "independent" and folder == folders[0]:  # the score that is said is that of what is written
            expected = [one.scores["token"][1] for one in results[0] if one.group == "rewrite"]
            assert note["low_rank"]["metrics"]["rewrite"]["after"] == pytest.approx(sum(expected) / len(expected))
    if mode == "batch":
        assert note["low_rank"]["metrics"].keys() == note["metrics"].keys()
        whole = made.schedule.delta.matrix(EDITED)
        assert ((again.matrix(EDITED) - whole).norm() / whole.norm()).item() == pytest.approx(errors[0], rel=1e-4)
    assert len(errors) == (1 if mode == "batch" else COUNT)
    assert writer.error == pytest.approx(max(errors))
    assert f"up to {100 * max(errors):.2g}% of the change" in capsys.readouterr().out


def test_predict_fits_a_server(tmp_path, data, tokenizer):
    made = module(tokenizer, mode="batch")
    trainer(tmp_path, AdapterWriter(generate=False, resamples=10, serve="vllm")).predict(made, datamodule=data)
    folder = tmp_path / "adapter"
    assert check_servable(folder) == []
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 16  # of 13 facts
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    again = WeightDelta.load(folder, made.llm)
    assert again.ranks == {EDITED: COUNT}  # without the padding
    torch.testing.assert_close(again.matrix(EDITED), made.schedule.delta.matrix(EDITED))
    assert [one.prompt for one in again.facts.requests] == [one.prompt for one in data.loaded.requests]
    assert "--max-lora-rank 16" in (folder / "README.md").read_text()


def test_a_merged_model_has_no_rank():
    with pytest.raises(SettingError, match="`max_rank` and `serve` are for adapters, and `merge` writes"):
        AdapterWriter(merge=True, max_rank=3)
    with pytest.raises(SettingError, match="`max_rank` must be at least 1, got 0"):
        AdapterWriter(max_rank=0)


@pytest.mark.parametrize("mode", ["independent", "batch", "sequential"])
@pytest.mark.parametrize(
    "editor",
    [LocFT(epochs=2, learning_rate=1e-2), CrispEdit(epochs=2, learning_rate=1e-2, curvature_tokens=300)],
    ids=lambda editor: editor.name,
)
def test_breadth_first_methods_in_every_mode(editor, mode, tmp_path, data, tokenizer):
    made = module(tokenizer, editor=editor, mode=mode, layer="default")
    content = validate(tmp_path, made, data)
    layers = {"LocFT-BF": [3], "CrispEdit": [0, 1, 2, 3]}[editor.name]
    assert content["layers"] == layers
    assert content["method"] == editor.settings(made.llm)
    requests = data.loaded.requests
    if mode == "independent":
        deltas = editor.compute_each(made.llm, tokenizer, requests, layers)
    else:
        session = EditSession(editor, made.llm, tokenizer, layers)
        for start in range(0, COUNT, COUNT if mode == "batch" else 3):
            session.edit(requests[start : start + (COUNT if mode == "batch" else 3)])
        deltas = [session.delta] * COUNT
        for name, update in session.delta.updates.items():
            torch.testing.assert_close(made.schedule.delta.matrix(name), update.matrix, rtol=1e-3, atol=1e-4)
    outcomes = evaluate(made.llm, tokenizer, requests, deltas, EvaluationConfig(generate=False))
    expected = [next(one.scores["token"][1] for one in of_request if one.group == "rewrite") for of_request in outcomes]
    assert [row["rewrite"]["after"] for row in content["requests"]] == pytest.approx(expected)


def test_moments_by_a_trainer_are_those_of_the_function(tmp_path, tokenizer, monkeypatch):
    text = tmp_path / "texts.txt"
    text.write_text("\n\n".join(f"The capital of country {number} is old." for number in range(300)))
    settings = {"tokens": 700, "sequence_length": 8, "save_every": 0}
    made = MomentsModule(layers="1-2", text=str(text), model=tiny_model("llama"), tokenizer=tokenizer, **settings)
    trainer(tmp_path).predict(made, return_predictions=False)
    found = {layer: load_covariance(made.key.folder, layer, made.key) for layer in (1, 2)}
    assert not (made.key.folder / "partial.safetensors").exists()
    for layer in (1, 2):
        (made.key.folder / f"{layer}.safetensors").unlink()
    again = find_covariances(made.llm, tokenizer, [1, 2], str(text), 700, 8)
    assert all(torch.equal(again[layer], found[layer]) for layer in (1, 2))


@pytest.mark.parametrize(
    ("setting", "said"), [({"layers": "a-b"}, "no attribution at 'a-b'"), ({"tokens": 0}, "tokens")]
)
def test_moments_with_bad_settings(setting, said, tmp_path, tokenizer, monkeypatch):

    def estimate():
        made = MomentsModule(**setting, model=tiny_model("llama"), tokenizer=tokenizer)
        trainer(tmp_path).predict(made, return_predictions=False)

    with pytest.raises(LGAError, match=said):
        estimate()


@pytest.mark.parametrize(
    "options", [{"limit_predict_batches": 1}, {"limit_predict_batches": 0.5}, {"fast_dev_run": True}]
)
def test_moments_are_of_all_of_the_text(options, tmp_path, tokenizer):
    made = MomentsModule(layers=1, tokens=700, model=tiny_model("llama"), tokenizer=tokenizer)
    with pytest.raises(SettingError, match=r"would leave text out.*--model\.tokens"):
        trainer(tmp_path, **options).predict(made, return_predictions=False)
    assert not (tmp_path / "cache").exists()


def test_notes_that_take_long_are_not_made_after_each_batch(tmp_path, tokenizer, monkeypatch):
    clock, notes = [0.0], []

    def tick(seconds: float = 1.0) -> float:
        clock[0] += seconds
        return clock[0]

    monkeypatch.setattr("lga_lightning.modules.moments.time", SimpleNamespace(monotonic=tick))
    monkeypatch.setattr("lga_lightning.modules.moments.save_partial", lambda *of: notes.append(of[2]) or tick(100))
    settings = {"tokens": 10 * 32 * 4, "sequence_length": 4, "save_every": 3}
    made = MomentsModule(layers=0, model=tiny_model("llama"), tokenizer=tokenizer, **settings)
    trainer(tmp_path).predict(made, return_predictions=False)
    assert notes == [3, 6, 9]


def test_milestones():
    assert milestones(1) == []
    assert milestones(11) == [1, 10]
    assert milestones(100) == [1, 10]
    assert milestones(2500) == [1, 10, 100, 1000]
