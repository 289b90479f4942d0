"""The command line, in this process and in processes of its own, on a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lga_lightning.cli import run
from lga_lightning.exceptions import SettingError
from lga_lightning.locators import ValueGradient
from lga_lightning.models.loading import load_model
from tests.helpers.cli import FAST_EDIT, QUICK, TWO, Forked, forked, refused, shell
from tests.helpers.data import rows, write_rows
from tests.helpers.models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("at_the_shell")


def lga(verb: str, arguments: list[str], root: Path) -> dict:
    """Run a verb in this process; returns the file that it left. The model must be as it was loaded."""
    model = run([verb, *arguments, f"--trainer.default_root_dir={root}"]).model
    loaded, _ = load_model(model.model_name)
    for parameter, expected in zip(model.llm.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(parameter, expected)
    return json.loads((root / {"fit": "attribution.json", "validate": "validation.json"}[verb]).read_text())


def test_fit_leaves_what_it_promises(arguments, tmp_path, capsys, pictures):
    root = tmp_path / "run"
    result = lga("fit", arguments, root)
    assert result["schema"] == 1
    assert result["num_requests"] == 13
    assert result["num_skipped"] == {}
    assert (result["locator"], result["scope"], result["fences"]) == ("EditForecast", None, None)
    for name in ("scores", "standard_errors", "expected_rewrite", "expected_rephrase", "expected_locality", "reach"):
        assert len(result[name]) == 4
    assert set(result["half_widths"]) >= {"expected_rewrite", "expected_rephrase", "expected_locality"}
    assert result["race"] is None
    assert sorted(result["ranking"]) == [0, 1, 2, 3]
    assert result["golden_layer"] == result["ranking"][0]
    assert 0 < result["confidence"] <= 1
    assert result["confidence_set"]
    assert "torch" in result["versions"]
    assert (root / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "attribution.ckpt").stat().st_size < 20_000
    torch.load(root / "attribution.ckpt", weights_only=True)
    assert sorted(path.name for path in root.iterdir()) == [
        "attribution.ckpt",
        "attribution.json",
        "layers.png",
        "lga_fit.yaml",
        "report.html",
    ]
    assert f"Golden layer: {result['golden_layer']}" in capsys.readouterr().out


def test_fit_equals_the_library(arguments, model_folder, tmp_path):
    from lga_lightning.data import load_requests

    result = lga("fit", [*arguments, "--model.locator=ValueGradient"], tmp_path / "run")
    model, tokenizer = load_model(str(model_folder))
    values = ValueGradient().score(model, tokenizer, load_requests(tmp_path / "requests.jsonl").requests).values
    assert result["scores"] == pytest.approx(ValueGradient().choose(values[:, 0]).scores, rel=1e-4)
    torch.testing.assert_close(torch.tensor(result["old_norm"]), values[:, 2].mean(0), rtol=1e-4, atol=1e-5)


def test_validate_at_golden_given_and_file(arguments, model_folder, tmp_path):
    root = tmp_path / "run"
    golden = lga("fit", arguments, root)["golden_layer"]
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    results = {
        layer: lga("validate", [*arguments, *FAST_EDIT, f"--model.layer={layer}"], root)
        for layer in ("golden", str(root / "attribution.json"), str(golden))
    }
    assert {result["layers"][0] for result in results.values()} == {golden}
    assert results["golden"]["metrics"] == results[str(golden)]["metrics"]
    metrics = results["golden"]["metrics"]
    contests = {f"counterfact.{name}" for name in ("ES", "PS", "NS", "EM", "PM", "NM", "S")}
    assert set(metrics) == {"rewrite", "rephrase", "locality", "locality.neighborhood", *contests}
    assert all(metric["protocol"] for metric in metrics.values())
    assert all(metric["generated"]["protocol"] for name, metric in metrics.items() if "counterfact" not in name)
    assert metrics["locality"]["before"] == 1
    per_request = [row["rewrite"]["after"] for row in results["golden"]["requests"]]
    assert len(per_request) == 13
    assert metrics["rewrite"]["after"] == pytest.approx(sum(per_request) / 13, abs=1e-6)
    assert results["golden"]["method"]["second_moment"] == "identity"
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before


def test_what_validate_measures_is_a_choice(arguments, tmp_path, capsys):
    from pyarrow import parquet

    text = tmp_path / "text.txt"
    text.write_text("people say that Rome is in Italy " * 40, encoding="utf-8")
    common = [*arguments, *FAST_EDIT, "--model.layer=1", "--data.limit=2"]
    full = lga("validate", [*common, "--edits.fluency=true", f"--edits.text={text}"], tmp_path / "full")
    assert {"fluency", "perplexity"} < set(full["metrics"])
    assert "bootstrap" in full["intervals"]
    rows = parquet.read_table(tmp_path / "full" / "requests.parquet").to_pylist()
    assert [row["id"] for row in rows if row["group"] == "rewrite"] == [row["id"] for row in full["requests"]]
    assert all(row["said_after"] is not None for row in rows if row["group"] != "perplexity")
    quick = lga("validate", [*common, "--edits.generate=false"], tmp_path / "quick")
    assert "generated" not in quick["metrics"]["rewrite"]
    assert quick["metrics"]["rewrite"]["after"] == full["metrics"]["rewrite"]["after"]
    assert not {"fluency", "perplexity"} & set(quick["metrics"])
    text.write_text("too short", encoding="utf-8")
    assert "at least 100 words" in refused(["validate", *common, f"--edits.text={text}"], capsys)


def test_configs_round_trip(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(["fit", *arguments, "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    first = lga("fit", arguments, tmp_path / "one")
    again = lga("fit", ["--config", str(tmp_path / "printed.yaml")], tmp_path / "two")
    assert {**again, "seconds": 0, "checksum": ""} == {**first, "seconds": 0, "checksum": ""}


def test_only_known_and_skipped_are_counted(arguments, tmp_path, capsys):
    data = write_rows(tmp_path / "requests.jsonl", [*rows(3), {**rows(1)[0], "prompt": "no subject here"}])
    result = lga("fit", [*arguments, f"--data.requests={data}"], tmp_path / "run")
    assert result["num_requests"] == 3
    assert result["num_skipped"] == {"subject not in the prompt": 1}
    error = refused(["fit", *arguments, "--model.only_known=true"], capsys)
    assert "No proxy request" in error
    assert "does not answer with target_old" in error


def test_old_answer_of_the_model(arguments, tmp_path):
    found = [{name: value for name, value in row.items() if name != "target_old"} for row in rows(3)]
    data = write_rows(tmp_path / "requests.jsonl", found)
    result = lga("fit", [*arguments, f"--data.requests={data}"], tmp_path / "run")
    assert result["num_requests"] + sum(result["num_skipped"].values()) == 3


def test_counterfact_edit_format(arguments, tmp_path):
    found = [
        {
            "case_id": number,
            "prompt": row["prompt"],
            "target_new": row["target_new"],
            "subject": row["subject"],
            "ground_truth": row["target_old"],
            "rephrase_prompt": row["rephrases"][0],
            "locality_prompt": "Oslo is in",
            "locality_ground_truth": "Norway",
        }
        for number, row in enumerate(rows(4))
    ]
    (tmp_path / "counterfact.json").write_text(json.dumps(found))
    root = tmp_path / "run"
    common = [*arguments, f"--data.requests={tmp_path / 'counterfact.json'}", "--data.format=counterfact-edit"]
    assert lga("fit", [*common, "--data.limit=3"], root)["num_requests"] == 3
    metrics = lga("validate", [*common, *FAST_EDIT], root)["metrics"]
    contests = {f"counterfact.{name}" for name in ("ES", "PS", "NS", "EM", "PM", "NM", "S")}
    assert set(metrics) == {"rewrite", "rephrase", "locality", "locality.neighborhood", *contests}


def test_edits_verify_the_layer(arguments, tmp_path):
    root = tmp_path / "run"
    plain = lga("fit", [*arguments, *FAST_EDIT], tmp_path / "plain")
    assert plain["race"] is None
    result = lga("fit", [*arguments, *FAST_EDIT, "--verify.budget=16", "--verify.requests=2"], root)
    race = result["race"]
    assert race["edits"] == sum(race["edited"]) <= 16
    assert race["settings"] == {"budget": 16, "tolerance": 1.0, "confidence": 0.95, "candidates": 4, "requests": 2}
    assert result["golden_layer"] == plain["golden_layer"]  # that of the scores
    assert (root / "race.safetensors").is_file()
    assert lga("validate", [*arguments, *FAST_EDIT, "--data.limit=2"], root)["layers"] == race["layers"]


USUAL = {"budget": None, "tolerance": 1.0, "confidence": 0.95, "candidates": 4, "requests": 4}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["--verify"], USUAL),
        (["--verify", "--data.limit=3"], USUAL),
        (["--verify", "true"], USUAL),
        (["--verify", "false"], None),
        (["--verify.budget", "200"], {**USUAL, "budget": 200}),
        (["--verify.budget=5 min"], {**USUAL, "budget": "5 min"}),
        (["--verify", "--verify.tolerance=2"], {**USUAL, "tolerance": 2.0}),
        (["--verify.candidates=3", "--verify.requests=9"], {**USUAL, "candidates": 3, "requests": 9}),
        (["verify: true"], USUAL),
        (["verify: {budget: 30, confidence: 0.9}"], {**USUAL, "budget": 30, "confidence": 0.9}),
        (["verify: {budget: 30}", "--verify.budget=1 h"], {**USUAL, "budget": "1 h"}),
        (["verify: true", "--verify=false"], None),
    ],
)
def test_ways_to_ask_for_a_race(words, expected, arguments, tmp_path, capsys, monkeypatch):
    """Each of them, and what ``--print_config`` makes of it, read again."""
    from dataclasses import asdict

    from lga_lightning.cli import LGACLI

    asked = []

    def note(self) -> None:
        asked.append(self.config_init["fit"]["attribution"].verify)

    monkeypatch.setattr(LGACLI, "_run_subcommand", lambda self, subcommand: note(self))
    if words and words[0].startswith("verify"):
        (tmp_path / "given.yaml").write_text(words[0])
        words = [f"--config={tmp_path / 'given.yaml'}", *words[1:]]
    run(["fit", *arguments, *words])
    with pytest.raises(SystemExit):
        run(["fit", *arguments, *words, "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    run(["fit", "--config", str(tmp_path / "printed.yaml")])
    assert [one and asdict(one) for one in asked] == [expected, expected]


def test_a_race_that_cannot_be_is_refused_in_one_paragraph(arguments, capsys):
    cases = {
        "--verify.budget=soon": "The budget of a race must be a number of edits (200) or a time ('5 min'), got 'soon'.",
        "--verify.budget=-3": "got -3",
        "--verify.confidence=1.5": "got 1.5, 1.0, 4 and 4",
        "--verify.candidates=1": "at least 2 `candidates`",
    }
    for word, message in cases.items():
        error = refused(["fit", *arguments, word], capsys)
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_bad_input_each_has_one_clear_paragraph(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = tmp_path / "run"
    common = [*arguments, f"--trainer.default_root_dir={root}"]

    def data(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return f"--data.requests={tmp_path / name}"

    row = rows(1)[0]
    cases = {
        "does not exist": ["--data.requests=nowhere.jsonl"],
        "broken.jsonl, line 2 is not valid JSON": [data("broken.jsonl", json.dumps(row) + "\n{")],
        "short.jsonl, line 1: the format is not recognised": [data("short.jsonl", '{"prompt": "a"}')],
        "holds no usable request": [data("empty.jsonl", "")],
        "does not occur in the prompt": [data("s.jsonl", json.dumps({**row, "subject": "Mars"})), "--data.strict=true"],
        "`target_new` of": [data("t.jsonl", json.dumps({**row, "target_new": " "})), "--data.strict=true"],
        "nothing to edit": [
            data("e.jsonl", json.dumps({**row, "target_old": row["target_new"]})),
            "--data.strict=true",
        ],
        "Could not load the model 'no/such-model'": ["--model.model_name=no/such-model"],
    }
    for message, extra in cases.items():
        assert message in refused(["fit", *common, *extra], capsys)
    assert "Layer 7 is out of range" in refused(["validate", *common, "--model.layer=7"], capsys)
    for layer in ("golden", "gold", str(tmp_path)):
        assert "Run `lga fit` first" in refused(["validate", *common, f"--model.layer={layer}"], capsys)
    assert "There is no checkpoint at" in refused(["fit", *common, "--ckpt_path=nowhere.ckpt"], capsys)
    assert "is not a checkpoint" in refused(["fit", *common, f"--ckpt_path={tmp_path / 'empty.jsonl'}"], capsys)
    assert "broken.jsonl" in refused(
        ["fit", *arguments, f"--trainer.default_root_dir={tmp_path / 'broken.jsonl'}"], capsys
    )
    left = {path.name for path in root.iterdir()} if root.exists() else set()
    assert left <= {"lga_fit.yaml", "lga_validate.yaml"}


def test_non_finite_scores_name_layer_and_request(arguments, tmp_path, capsys):
    model = tiny_model("llama")
    model.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    error = refused(["fit", *arguments, *FAST_EDIT, f"--model.model_name={tmp_path / 'nan'}"], capsys)
    assert "The score of layer" in error
    assert "requests.jsonl, line" in error


def test_unknown_architecture(arguments, tmp_path, capsys):
    model = tiny_model("mamba", hidden_size=24, num_hidden_layers=2, state_size=4)
    model.save_pretrained(tmp_path / "mamba")
    tiny_tokenizer().save_pretrained(tmp_path / "mamba")
    error = refused(["fit", *arguments, f"--model.model_name={tmp_path / 'mamba'}"], capsys)
    assert "model type 'mamba'" in error


def test_two_processes_give_the_scores_of_one(arguments, tmp_path):
    from pyarrow import parquet

    results = {}
    for devices in (1, 2):
        root = tmp_path / str(devices)
        common = [*arguments, f"--trainer.devices={devices}", f"--trainer.default_root_dir={root}"]
        explicit = ["--trainer.strategy=ddp"] if devices == 2 else []  # "auto" for the one, by name for the other
        short = ["--edits.max_new_tokens=6"]  # in a process that Lightning starts, too
        for verb, extra in (("fit", []), ("validate", [*explicit, *short]), ("fit", explicit)):
            done = forked(verb, *common, *FAST_EDIT, *extra)
            assert done.returncode == 0, done.stderr[-3000:]
            assert "sync_dist" not in done.stderr
            assert "overridden" not in done.stderr
        results[devices] = [json.loads((root / f"{name}.json").read_text()) for name in ("attribution", "validation")]
    (one, edits), (two, edits_of_two) = results[1], results[2]
    assert one["num_requests"] == two["num_requests"] == 13
    for name in ("scores", "standard_errors", "expected_rewrite", "reach", "damage"):
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), rtol=1e-6, atol=1e-7)
    assert two["golden_layer"] == one["golden_layer"]
    assert [row["id"] for row in edits_of_two["requests"]] == [row["id"] for row in edits["requests"]]
    for name, metric in edits["metrics"].items():
        for side in ("after", "after_ci"):
            assert edits_of_two["metrics"][name][side] == pytest.approx(metric[side], abs=1e-6)
        if "generated" in metric:
            assert edits_of_two["metrics"][name]["generated"] == metric["generated"]
    said = [parquet.read_table(tmp_path / devices / "requests.parquet").to_pydict() for devices in ("1", "2")]
    for name in ("index", "id", "group", "prompt", "answers", "said_before", "said_after"):
        assert said[0][name] == said[1][name]


def test_resume_counts_no_request_twice_and_loses_none(arguments, tmp_path):
    whole = lga("fit", arguments, tmp_path / "whole")
    lga("fit", [*arguments, "--attribution.checkpoint_every=2", "--trainer.limit_train_batches=2"], tmp_path / "part")
    checkpoint = tmp_path / "part" / "attribution.ckpt"
    assert len(torch.load(checkpoint)["callbacks"]["ScoreCollector"]["scores"]["index"]) in (3, 4)
    for batch_size in (2, 5):  # also in batches of another size
        resumed = [*arguments, f"--ckpt_path={checkpoint}", f"--data.batch_size={batch_size}"]
        result = lga("fit", resumed, tmp_path / f"resumed{batch_size}")
        assert result["num_requests"] == 13
        torch.testing.assert_close(torch.tensor(result["scores"]), torch.tensor(whole["scores"]), rtol=1e-5, atol=1e-6)
    finished = [*arguments, f"--ckpt_path={tmp_path / 'whole' / 'attribution.ckpt'}"]
    assert lga("fit", finished, tmp_path / "finished")["scores"] == pytest.approx(whole["scores"], rel=1e-6)


def test_checkpoint_of_another_run_is_refused(arguments, tmp_path, capsys):
    lga("fit", arguments, tmp_path / "run")
    checkpoint = f"--ckpt_path={tmp_path / 'run' / 'attribution.ckpt'}"
    error = refused(["fit", *arguments, checkpoint, "--model.locator=LGA", "--model.locator.scope=mlp_out"], capsys)
    assert "its locator is 'EditForecast', not 'LGA'" in error
    assert "its editor is" in refused(["fit", *arguments, checkpoint, "--model.editor.steps=7"], capsys)
    assert "its requests is" in refused(["fit", *arguments, checkpoint, "--data.limit=4"], capsys)
    assert "its only_known is" in refused(["fit", *arguments, checkpoint, "--model.only_known=true"], capsys)


def test_other_weights_under_the_same_name_are_refused(arguments, model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    mine = [*arguments, f"--model.model_name={folder}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    lga("fit", mine, tmp_path / "run")
    model, _ = load_model(str(folder))
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    model.save_pretrained(folder)
    checkpoint = f"--ckpt_path={tmp_path / 'run' / 'attribution.ckpt'}"
    assert "its weights is 'float32 " in refused(["fit", *mine, checkpoint], capsys)
    assert "was found on other weights of" in refused(["validate", *mine, *FAST_EDIT], capsys)
    lga("validate", [*mine, *FAST_EDIT, "--model.layer=1", "--edits.generate=false"], tmp_path / "run")


@pytest.mark.parametrize(
    ("devices", "asked"), [(1, signal.SIGINT), (2, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGTERM)]
)
def test_an_interrupted_fit_leaves_a_checkpoint_that_resumes(devices, asked, arguments, tmp_path):
    data = write_rows(tmp_path / "many.jsonl", rows(4000))
    root = tmp_path / "run"
    words = ["fit", *arguments, f"--data.requests={data}", f"--trainer.devices={devices}"]
    run_of_many = Forked(*words, f"--trainer.default_root_dir={root}")
    run_of_many.wait_for((root / "attribution.ckpt").exists)  # the first comes with the first batch
    time.sleep(0.5)
    run_of_many.send(asked)
    done = run_of_many.end(60)
    assert done.returncode == 128 + asked
    assert "--ckpt_path" in done.stderr
    assert f"lga: ended by {asked.name}." in done.stderr
    left = torch.load(root / "attribution.ckpt")["callbacks"]["ScoreCollector"]["scores"]["index"]
    assert 0 < len(left) < 4000
    assert len(left.unique()) == len(left)
    resumed = [*arguments, f"--data.requests={data}", f"--ckpt_path={root / 'attribution.ckpt'}"]
    result = lga("fit", [*resumed, "--trainer.limit_train_batches=3"], tmp_path / "resumed")
    assert len(left) + 4 <= result["num_requests"] <= len(left) + 6


@pytest.mark.parametrize(
    ("verb", "options", "begun"),
    [
        ("validate", ["--data.requests=many.jsonl", "--model.layer=1"], "run/lga_validate.yaml"),
        ("predict", ["--data.requests=many.jsonl", "--model.layer=1"], "run/lga_predict.yaml"),
        (
            "moments",
            ["--model.text=texts.txt", "--model.tokens=400000000", "--model.save_every=0"],
            "cache/**/partial.safetensors",
        ),
    ],
)
def test_sigterm_ends_every_verb_within_seconds(verb, options, begun, arguments, model_folder, tmp_path):
    write_rows(tmp_path / "many.jsonl", rows(4000))
    (tmp_path / "texts.txt").write_text("\n".join(f"Text {number} of the capital." for number in range(60_000)))
    own = arguments if verb != "moments" else [f"--model.model_name={model_folder}", *QUICK]
    run_of_many = Forked(verb, *own, "--trainer.default_root_dir=run", *options, cwd=tmp_path)
    run_of_many.wait_for(lambda: any(tmp_path.glob(begun)))
    time.sleep(1.0)
    assert run_of_many.runs()
    run_of_many.send(signal.SIGTERM)
    done = run_of_many.end(60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "validation.json").exists()
    assert not (tmp_path / "run" / "adapter").exists()


def test_help_and_version_are_quick():
    for flag in ("--help", "--version"):
        start = time.perf_counter()
        done = shell(flag, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
        assert done.returncode == 0
        assert "lga" in done.stdout
        # what takes seconds is not even imported
        assert not any(name in done.stderr for name in ("torch", "lightning.pytorch", "transformers"))
        assert time.perf_counter() - start < 30


def test_predict_writes_an_adapter_or_merges(arguments, tmp_path, capsys):
    edits = [*arguments, "--model.layer=1", "--data.limit=3", "--edits.generate=false", *FAST_EDIT]
    root = f"--trainer.default_root_dir={tmp_path}"
    run(["predict", *edits, root])
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert "edited together" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SettingError, match=r"is there already.*--edits.overwrite true"):
        run(["predict", *edits, root])
    run(["predict", *edits, root, "--merge"])
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    run(["predict", *edits, root, "--edits.overwrite=true", "--edits.output=elsewhere"])
    assert (tmp_path / "elsewhere" / "README.md").is_file()


def test_two_processes_write_every_adapter_once(arguments, tmp_path):
    options = ["--model.layer=1", "--model.mode=independent", "--edits.output=out", "--edits.generate=false"]
    done = forked("predict", *arguments, *options, *FAST_EDIT, *TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    written = sorted((tmp_path / "out").iterdir())
    assert [int(folder.name[:4]) for folder in written] == list(range(13))
    assert all((folder / "adapter_model.safetensors").is_file() for folder in written)


def test_methods_that_spread_take_a_window_around_the_golden_layer(arguments, tmp_path):
    golden = lga("fit", arguments, tmp_path)["golden_layer"]
    memit = ["--model.editor=MEMIT", "--model.editor.window=2", *FAST_EDIT]
    content = lga("validate", [*arguments, "--data.limit=3", "--edits.generate=false", *memit], tmp_path)
    assert golden in content["layers"]
    assert len(content["layers"]) <= 2
    assert content["layer_source"].startswith("golden window of")


def test_moments_and_a_method_that_uses_them(model_folder, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n\n".join(f"The capital of country {n} is old." for n in range(300)))
    run(["moments", f"--model.model_name={model_folder}", "--model.layers=1-2", "--model.text=texts.txt", *QUICK])
    said = "".join(capsys.readouterr().out.split())
    assert "layers1,2" in said
    folder = next((tmp_path / "cache" / "second-moments").iterdir())
    assert {path.name for path in folder.iterdir()} >= {"1.safetensors", "2.safetensors"}


def test_two_processes_take_the_moments_of_one(model_folder, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("\n\n".join(f"The capital of country {n} is old." for n in range(400)))
    found = []
    for name, devices in (("one", []), ("two", TWO)):
        cache = tmp_path / name
        monkeypatch.setattr("lga_lightning.covariance.store.cache_folder", lambda cache=cache: cache)
        options = ["--model.layers=1-2", "--model.text=texts.txt", "--model.tokens=3000", "--model.save_every=0"]
        done = forked("moments", f"--model.model_name={model_folder}", *options, *QUICK, *devices)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = next((cache / "second-moments").iterdir())
        assert not (folder / "partial.safetensors").exists()
        found.append([load_file(folder / f"{layer}.safetensors")["moment"] for layer in (1, 2)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-9)


def test_two_processes_edit_together_as_one_does(arguments, tmp_path):
    contents = []
    for name, devices in (("one", []), ("two", TWO)):
        root = tmp_path / name
        options = ["--model.layer=1", "--model.mode=batch", "--edits.generate=false", *devices]
        done = forked("validate", *arguments, *options, *FAST_EDIT, f"--trainer.default_root_dir={root}")
        assert done.returncode == 0, done.stderr[-3000:]
        contents.append(json.loads((root / "validation.json").read_text()))
    one, two = contents
    assert [row["id"] for row in one["requests"]] == [row["id"] for row in two["requests"]]
    assert [point["edits"] for point in two["drift"]] == [1, 10, 13]
    for name, metric in one["metrics"].items():
        assert two["metrics"][name]["after"] == pytest.approx(metric["after"], abs=1e-6)
