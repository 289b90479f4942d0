"""``lga compare``, against what its parts say one by one."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch

from lga_lightning import LGA, MEMIT, RROME, CausalTracing, CrispEdit, EditForecast, LayerSweep, LocFT, UltraEdit
from lga_lightning.cli import run
from lga_lightning.compare import LocatorComparison
from lga_lightning.data import load_requests
from lga_lightning.data.batching import RequestBatch
from lga_lightning.exceptions import SettingError
from lga_lightning.locators import Evidence, LayerLocator, causal_tracing
from lga_lightning.locators.score_requests import score_requests
from lga_lightning.models.loading import load_model
from lga_lightning.results.comparison import Comparison
from lga_lightning.results.regret import layer_regret
from tests.helpers.cli import FAST_EDIT, QUICK, TWO, forked, refused
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests


@pytest.fixture(autouse=True)
def _everything_is_known(at_the_shell: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # a model of random weights knows nothing, and causal tracing counts what is known alone
    monkeypatch.setattr(
        causal_tracing, "knows_old_answer", lambda model, tokenizer, asked: torch.ones(len(asked)).bool()
    )


def facts(count: int, splits: tuple[str | None, ...] = ("proxy", "proxy", "test")) -> list[dict]:
    return [{**row, "split": splits[i % len(splits)]} for i, row in enumerate(rows(count))]


@pytest.fixture
def arguments(model_folder: Path, tmp_path: Path) -> list[str]:
    data = write_rows(tmp_path / "requests.jsonl", facts(12))
    common = [f"--model.model_name={model_folder}", f"--data.requests={data}", "--data.batch_size=3"]
    return [
        *common,
        "--model.only_known=false",
        "--compare.batch_size=2",
        *QUICK,
        *FAST_EDIT,
        "--trainer.default_root_dir=runs",
    ]


def compare(arguments: list[str], folder: str = "runs") -> dict:
    run(["compare", *arguments])
    return json.loads(Path(folder, "comparison.json").read_text())


def test_compare_says_what_its_parts_say(arguments, model_folder, tmp_path, capsys):
    other = write_rows(tmp_path / "other.jsonl", facts(21)[12:])
    result = compare([*arguments, f"--compare.others=[{other}]", "--compare.candidates=true"])
    model, tokenizer = load_model(str(model_folder))

    def of_split(split: str, path: Path = tmp_path / "requests.jsonl") -> list:
        return load_requests(path, split=split).requests

    def evidence(locator: LayerLocator, found: list) -> torch.Tensor:
        locator.prepare(model, tokenizer, found)
        return locator.score(model, tokenizer, found).values.double()

    assert [row["name"] for row in result["rows"]] == [
        "EditForecast",
        "LGA",
        "CausalTracing",
        "R-ROME's default",
        "MiddleLayer",
    ]
    layers = {row["name"]: row["layer"] for row in result["rows"]}
    editor = RROME(steps=3, contexts_each=1, context_lengths=[3], second_moment="identity")
    for locator in (EditForecast(editor), LGA(), CausalTracing()):
        scores = evidence(locator, of_split("proxy"))[:, 0]
        assert layers[type(locator).__name__] == locator.choose(scores).golden_layer
    assert layers["MiddleLayer"] == 2
    assert all(row["num_requests"] == 8 for row in result["rows"])
    assert result["rows"][0]["speed_up"] > 1
    assert [point["requests"] for point in result["rows"][0]["points"]] == [5]

    for number, path in enumerate((tmp_path / "requests.jsonl", other)):
        swept = evidence(LayerSweep(editor), of_split("test", path))
        truth = result["sweeps"][number]
        assert truth["scores"] == pytest.approx((100 * swept[:, 0].mean(0)).tolist(), abs=1e-3)
        assert truth["parts"]["rewrite"] == pytest.approx((100 * swept[:, 1].mean(0)).tolist(), abs=1e-3)
        assert truth["optimum"] == pytest.approx(100 * swept[:, 0].amax(1).mean().item(), abs=1e-3)
        for row in result["rows"]:
            found = layer_regret(swept[:, 0], row["layer"])
            assert row["regrets"][number]["regret"] == pytest.approx(found.regret, abs=1e-3)
            assert row["regrets"][number]["gap"] == pytest.approx(found.gap, abs=1e-3)
    own = EditForecast(editor).choose(evidence(EditForecast(editor), of_split("proxy", other))[:, 0]).golden_layer
    assert [truth["own_layer"] for truth in result["sweeps"]] == [None, own]
    assert len(result["candidates"]) == 144
    assert Path("runs/comparison.png").read_bytes().startswith(b"\x89PNG")
    text = Path("runs/comparison.md").read_text()
    for words in (
        "best fixed layer",
        "best layer of each request",
        "Expected regret",
        "All 144 gradient rules",
        "Carried over",
    ):
        assert words in text
    printed = capsys.readouterr().out
    assert "MiddleLayer" in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "editor"),
    [
        (["warmup=4"], UltraEdit(warmup=4)),
        (["epochs=2", "learning_rate=0.01"], LocFT(epochs=2, learning_rate=0.01)),
        (
            ["epochs=2", "learning_rate=0.01", "curvature_tokens=600", "window=2"],
            CrispEdit(epochs=2, learning_rate=0.01, curvature_tokens=600, window=2),
        ),
        (
            ["steps=3", "contexts_each=0", "second_moment=identity", "history=true"],
            MEMIT(steps=3, contexts_each=0, second_moment="identity", history=True),
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_locators_are_judged_by_the_edits_of_any_method(words, editor, arguments, model_folder, tmp_path):
    kept = [word for word in arguments if not word.startswith("--model.editor")]
    chosen = [f"--model.editor={type(editor).__name__}", *(f"--model.editor.{word}" for word in words)]
    result = compare([*kept, *chosen, "--compare.locators={expected: EditForecast, middle: MiddleLayer}"])
    assert result["editor"]["name"] == editor.name
    model, tokenizer = load_model(str(model_folder))

    def evidence(locator: LayerLocator, split: str) -> torch.Tensor:
        asked = load_requests(tmp_path / "requests.jsonl", split=split).requests
        locator.prepare(model, tokenizer, asked)
        return locator.score(model, tokenizer, asked).values.double()[:, 0]

    forecast = EditForecast(editor)
    assert result["rows"][0]["layer"] == forecast.choose(evidence(forecast, "proxy")).golden_layer
    swept = evidence(LayerSweep(editor), "test")
    assert result["sweeps"][0]["scores"] == pytest.approx((100 * swept.mean(0)).tolist(), abs=1e-3)


def test_candidates_alone_are_judged_where_a_sweep_is_too_dear(arguments, tmp_path, monkeypatch, caplog, pictures):
    full = compare([*arguments, "--trainer.default_root_dir=full"], "full")
    other = write_rows(tmp_path / "other.jsonl", facts(21)[12:])
    arguments += ["--model.locator=EditForecast", f"--compare.others=[{other}]"]
    monkeypatch.setattr("lga_lightning.compare.CANDIDATES", 1)
    monkeypatch.setattr("lga_lightning.compare.MAX_EDITS", 20)  # 4 + 3 tests at 4 layers are 28
    with caplog.at_level("INFO"):
        result = compare(arguments)
    assert "Edits of 7 tests at every layer would be 28" in caplog.text
    assert "--compare.judge sweep" in caplog.text
    picked = {row["layer"] for row in result["rows"]} | {result["sweeps"][1]["own_layer"]}
    assert 1 < len(picked) < 4
    for sweep in result["sweeps"]:
        assert {layer for layer, score in enumerate(sweep["scores"]) if score is not None} == picked
        assert sweep["best_layer"] in picked
    scores = full["sweeps"][0]["scores"]
    for mine, theirs in zip(result["rows"], full["rows"], strict=True):
        layer = mine["layer"]
        assert layer == theirs["layer"]
        assert result["sweeps"][0]["scores"][layer] == pytest.approx(scores[layer], abs=1e-4)
        wanted = max(scores[one] for one in picked) - scores[layer]
        assert mine["regrets"][0]["regret"] == pytest.approx(wanted, abs=1e-4)
        assert mine["points"] == []
    assert f"at {len(picked)} candidates" in Path("runs/comparison.md").read_text()
    assert Comparison.load(Path("runs")).sweeps[0].edited == sorted(picked)
    assert Path("runs/comparison.png").stat().st_size > 10_000
    with pytest.raises(SettingError, match="Leave one of them out"):
        LocatorComparison(candidates=True, judge="candidates")
    with pytest.raises(SettingError, match="sweep, candidates, or left out"):
        LocatorComparison(judge="jury")


def test_a_locator_that_is_added_later_is_all_that_runs(arguments, monkeypatch, capsys):
    def judged(*layers: int) -> list:
        places = {f"at {layer}": {"class_path": "FixedLayer", "init_args": {"layer": layer}} for layer in layers}
        chosen = [f"--compare.locators={json.dumps(places)}", "--compare.judge=candidates"]
        return compare([*arguments, *chosen])["sweeps"][0]["scores"]

    score, swept = LayerSweep.score, []
    monkeypatch.setattr(LayerSweep, "score", lambda self, *args: (swept.append(self.layers), score(self, *args))[1])
    monkeypatch.setattr("lga_lightning.compare.CANDIDATES", 1)
    full = compare([*arguments, "--compare.locators={prior: MiddleLayer}"])["sweeps"][0]["scores"]
    swept.clear()
    for layers, done_now in (((1,), [1]), ((1, 0, 3), [0, 3]), ((3, 0), None), ((3, 2, 1), [2])):
        found = judged(*layers)
        assert [layer for layer, value in enumerate(found) if value is not None] == sorted(layers)
        assert [found[layer] for layer in layers] == pytest.approx([full[layer] for layer in layers], abs=1e-4)
        assert swept == ([done_now] * 2 if done_now else [])  # of four tests, in batches of two
        swept.clear()
    arguments += ["--model.editor.steps=4", "--compare.judge=candidates", "--compare.locators={prior: MiddleLayer}"]
    error = refused(["compare", *arguments], capsys)
    assert "The evidence in 'runs/tests-0/sweep-" in error
    assert "with another --trainer.default_root_dir, or without that folder" in error
    assert "ckpt_path" not in error


def test_half_a_sweep_of_other_settings_is_refused(arguments, monkeypatch, capsys):
    score, calls = LayerSweep.score, []

    def second_fails(self, *args):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, *args)

    monkeypatch.setattr(LayerSweep, "score", second_fails)
    arguments += ["--compare.locators={prior: MiddleLayer}"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(["compare", *arguments])
    error = refused(["compare", *arguments, "--model.editor.steps=4"], capsys)
    assert "The evidence in 'runs/tests-0/sweep' belongs to another run: its editor is" in error
    assert "ckpt_path" not in error


def test_a_locator_keeps_the_settings_that_it_was_given(arguments):
    (row, *_) = compare([*arguments, "--model.locator=CausalTracing", "--model.locator.copies=2"])["rows"]
    assert (row["name"], row["settings"]["copies"]) == ("CausalTracing", 2)


def test_compare_goes_on_where_it_was_and_does_nothing_twice(arguments, monkeypatch):
    score, calls = LayerSweep.score, []

    def second_fails(self, model, tokenizer, requests):
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, model, tokenizer, requests)

    monkeypatch.setattr(LayerSweep, "score", second_fails)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(["compare", *arguments])
    assert not Path("runs/comparison.json").exists()
    result = compare(arguments)
    assert calls == [2, 2, 2]  # of four requests, two were done

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("all evidence is there")

    monkeypatch.setattr(L.Trainer, "fit", never)
    again = compare(arguments)
    assert again == result


def test_two_processes_compare_as_one(arguments):
    options = ['--compare.locators={"one": {"class_path": "LGA"}, "two": {"class_path": "LayerSweep"}}']
    one = compare([*arguments, *options])
    assert one["rows"][1]["settings"]["editor"] == one["editor"]  # a sweep edits as the run does
    done = forked("compare", *arguments, *options, *TWO, "--trainer.default_root_dir=two")
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(Path("two/comparison.json").read_text())
    for mine, theirs in zip(one["rows"], two["rows"], strict=True):
        for name in ("name", "layer", "num_requests", "regrets", "settings"):
            assert mine[name] == theirs[name]
    assert one["sweeps"][0]["scores"] == pytest.approx(two["sweeps"][0]["scores"], abs=1e-4)


def test_compare_refuses_what_would_mislead(arguments, tmp_path, capsys):
    write_rows(tmp_path / "requests.jsonl", facts(12, (None,)))
    error = refused(["compare", *arguments], capsys)
    assert "12 of the prompts of requests.jsonl would be both proxies and tests" in error
    assert "--data.proxy_share 0.5" in error
    divided = compare(
        [*arguments, "--data.proxy_share=0.5", '--compare.locators={"prior": {"class_path": "MiddleLayer"}}']
    )
    assert divided["rows"][0]["points"] == []
    error = refused(["compare", *arguments, "--data.proxy_share=0.6"], capsys)
    assert "belongs to another run: its " in error
    other = write_rows(tmp_path / "other.jsonl", facts(6, ("test", "test", "proxy")))
    write_rows(tmp_path / "requests.jsonl", facts(12))
    error = refused(["compare", *arguments, f"--compare.others=[{other}]", "--trainer.default_root_dir=other"], capsys)
    assert "4 of the prompts of other.jsonl would be both proxies and tests" in error
    with pytest.raises(SettingError, match="same folder"):
        LocatorComparison({"LGA": LGA(), "lga!": LGA()})
    with pytest.raises(SettingError, match="batch_size"):
        LocatorComparison(batch_size=0)


def test_a_sweep_edits_no_request_that_will_not_count(model_folder, monkeypatch):
    from lga_lightning.locators import score_requests as module

    model, tokenizer = load_model(str(model_folder))
    known = torch.tensor([True, False, True, False, False])
    swept = []

    def sweep(self, model, tokenizer, requests):
        swept.extend(requests)
        return Evidence(torch.ones(len(requests), 4, 4), torch.ones(len(requests)).bool())

    monkeypatch.setattr(module, "knows_old_answer", lambda *args: known)
    monkeypatch.setattr(LayerSweep, "score", sweep)
    asked = requests(5)
    found = score_requests(LayerSweep(), model, tokenizer, RequestBatch(list(range(5)), asked), only_known=True)
    assert swept == [asked[0], asked[2]]
    assert found["status"].tolist() == [0, 1, 0, 1, 1]
    assert found["values"][:, 0, 0].tolist() == [1, 0, 1, 0, 0]
