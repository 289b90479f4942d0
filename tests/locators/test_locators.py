"""The locators but LGA's gradients and causal tracing, which have tests of their own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lga_lightning.cli import run
from lga_lightning.editing import FTM, MEMIT, RROME, CrispEdit, LocFT, UltraEdit
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.functional import find_golden_layer
from lga_lightning.locators import LGA, FixedLayer, LayerSweep, MiddleLayer
from lga_lightning.locators.base import knows_old_answer
from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.models.encoding import target_ids
from lga_lightning.models.generation import greedy_answers
from lga_lightning.reports.wording import remarks
from lga_lightning.results.atlas import check_measured
from tests.editing.helpers import method_for
from tests.helpers.cli import QUICK, TWO, forked
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_model

pytestmark = pytest.mark.usefixtures("at_the_shell")

FAST = {"steps": 4, "contexts_each": 1, "context_lengths": (3,)}


def test_statistics_are_made_of_dot_and_norms(llama, tokenizer):
    found = {m: LGA("mlp_out", statistic=m).score(llama, tokenizer, requests(4)).values for m in
             ("dot", "cosine", "new_norm", "dot_per_old_norm", "dot_per_new_norm")}  # fmt: skip
    dot, cosine, old, new = found["dot"].unbind(1)
    torch.testing.assert_close(dot, cosine * old * new)
    expected = {"cosine": cosine, "new_norm": new, "dot_per_old_norm": dot / old, "dot_per_new_norm": dot / new}
    for measure, values in expected.items():
        torch.testing.assert_close(found[measure][:, 0], values)
        torch.testing.assert_close(found[measure][:, 1:], found["dot"][:, 1:])


def test_priors(llama, tokenizer):
    for locator, layer in ((MiddleLayer(), 2), (FixedLayer(3), 3)):
        choice = locator.choose(locator.score(llama, tokenizer, requests(3)).values[:, 0])
        assert (choice.golden_layer, choice.confidence, choice.settled) == (layer, 1.0, True)
    with pytest.raises(ValueError, match="Layer 4 is out of range"):
        FixedLayer(4).score(llama, tokenizer, requests(1))
    with pytest.raises(ValueError, match="`layer` must be at least 0"):
        FixedLayer(-1)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", RROME),
        ("gpt2", RROME),
        ("llama", UltraEdit),
        ("gpt2", UltraEdit),
        ("llama", LocFT),
        ("llama", CrispEdit),
    ],
)
def test_sweep_equals_edit_score_restore(family, kind, tokenizer):
    """One request and one layer at a time (of CrispEdit one window), with the edit in the weights."""
    model, data = tiny_model(family, torch.float64, initializer_range=0.2), requests(4)
    data[1] = replace(data[1], rephrases=())
    data[2] = replace(data[2], locality={})
    editor = RROME(**FAST) if kind is RROME else method_for(kind, model)
    expected = torch.full((4, 4, 4), torch.nan, dtype=torch.float64)
    for row, request in enumerate(data):
        for layer in range(4):
            (delta,) = editor.compute_each(model, tokenizer, [request], editor.window_at(layer))
            prompts = {"rewrite": [(request.prompt, request.target_new)]}
            prompts["rephrase"] = [(prompt, request.target_new) for prompt in request.rephrases]
            probes = [probe for kind in request.locality.values() for probe in kind]
            before = [tokens(model, tokenizer, probe.prompt, probe.answers[0])[0] for probe in probes]
            with delta.applied(model):
                means = []
                for name in ("rewrite", "rephrase"):
                    shares = [share(*tokens(model, tokenizer, *pair)) for pair in prompts[name]]
                    means.append(sum(shares) / len(shares) if shares else None)
                after = [tokens(model, tokenizer, probe.prompt, probe.answers[0])[0] for probe in probes]
                shares = [share(b, a) for b, a in zip(before, after, strict=True)]
                means.append(sum(shares) / len(shares) if shares else None)
            there = [mean for mean in means if mean is not None]
            for column, mean in enumerate([sum(there) / len(there), *means]):
                if mean is not None:
                    expected[row, column, layer] = mean
    assert len(expected[:, 0].unique()) > 3  # edits do something, and not the same everywhere
    for size in (1, 3, 4):  # also: whatever the batch size
        parts = [data[start : start + size] for start in range(0, 4, size)]
        values = torch.cat([LayerSweep(editor).score(model, tokenizer, part).values for part in parts])
        torch.testing.assert_close(values.double(), expected, equal_nan=True, rtol=0, atol=1e-6)
    some = LayerSweep(editor, layers=[2, 1]).score(model, tokenizer, data).values.double()
    torch.testing.assert_close(some[..., [1, 2]], expected[..., [1, 2]], equal_nan=True, rtol=0, atol=1e-6)
    assert (some[:, 0, [0, 3]] == 0).all()
    assert some[:, 1:, [0, 3]].isnan().all()
    choice = LayerSweep(editor).choose(expected[:, 0])
    assert choice.golden_layer == expected[:, 0].mean(0).argmax()
    torch.testing.assert_close(torch.tensor(choice.scores).double(), expected[:, 0].mean(0))


@pytest.mark.parametrize("kind", [RROME, MEMIT, UltraEdit, FTM])
def test_a_sweep_together_is_one_edit_scored_by_each_request(kind, tokenizer):
    model, data = tiny_model("llama", torch.float64, initializer_range=0.2), requests(4)
    editor = RROME(**FAST) if kind is RROME else method_for(kind, model)
    values = LayerSweep(editor, layers=[1, 3], together=True).score(model, tokenizer, data).values.double()
    for layer in (1, 3):
        edit = editor.compute(model, tokenizer, data, editor.window_at(layer), batch_size=1)
        for row, request in enumerate(data):
            [[*results]] = evaluate(model, tokenizer, [request], [edit], EvaluationConfig(generate=False))
            for column, part in enumerate(PARTS, start=1):
                scores = [one.scores["token"][1] for one in results if one.group.split(".")[0] == part]
                assert values[row, column, layer] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
            assert values[row, 0, layer] == pytest.approx(values[row, 1:, layer].mean().item(), abs=1e-6)
    alone = LayerSweep(editor, layers=[1, 3]).score(model, tokenizer, data).values.double()
    assert not torch.allclose(alone[..., [1, 3]], values[..., [1, 3]], equal_nan=True)


def test_a_sweep_together_says_so(tokenizer):
    model = tiny_model("llama")
    found = find_golden_layer(model, tokenizer, requests(4), LayerSweep(RROME(**FAST), together=True))
    assert found.settings["together"] is True
    assert any("edited together" in remark for remark in remarks(found))
    with pytest.raises(SettingError, match="edits facts together"):
        check_measured(LayerSweep(RROME(**FAST), together=True), RROME(**FAST), model)
    with pytest.raises(SettingError, match="at some layers alone"):
        check_measured(LayerSweep(RROME(**FAST), layers=[1]), RROME(**FAST), model)
    both = [requests(1)[0], replace(requests(1)[0], target_new="Atlantis")]
    with pytest.raises(DataError, match="contradict each other"):
        LayerSweep(RROME(**FAST), together=True).score(model, tokenizer, both)


def test_a_sweep_takes_the_editor_of_the_run_and_stays_what_it_is():
    class MySweep(LayerSweep):
        only_known = True

    mine, editor = MySweep(), RROME(steps=2)
    mine.neighbours = 1
    found = mine.for_editor(editor)
    assert (type(found), found.editor, found.neighbours, mine.editor) == (MySweep, editor, 1, None)
    assert found.for_editor(RROME()) is found


def test_a_sweep_of_some_layers_prepares_no_others(tokenizer, monkeypatch):
    model, editor = tiny_model("llama"), MEMIT(window=2, second_moment="identity", moment_weight=2.0)
    prepared = []
    monkeypatch.setattr(MEMIT, "prepare", lambda self, model, tokenizer, layers: prepared.append(list(layers)))
    LayerSweep(editor, layers=[3, 0]).prepare(model, tokenizer, requests(2))
    LayerSweep(editor).prepare(model, tokenizer, requests(2))
    assert prepared == [[0, 2, 3], [0, 1, 2, 3]]


def tokens(model, tokenizer, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """What the model predicts at an answer's tokens, and the tokens."""
    begin = tokenizer(prompt)["input_ids"]
    target = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([begin + target])).logits[0, len(begin) - 1 : -1]
    return logits.argmax(-1).tolist(), target


def share(one: list[int], other: list[int]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def test_known_is_what_greedy_decoding_says(tokenizer):
    model = tiny_model("llama")
    data = [replace(request, target_old="Paris") for request in requests(8)]
    (token,) = target_ids(tokenizer, "Paris")
    prompt = torch.tensor([tokenizer(data[0].prompt)["input_ids"]])
    with torch.no_grad():  # so that the model gives this answer to some of the prompts
        model.lm_head.weight[token] = 10 * model.model(prompt).last_hidden_state[0, -1]
    found = knows_old_answer(model, tokenizer, data).tolist()
    says = greedy_answers(model, tokenizer, [request.prompt for request in data])
    assert found == [answer.startswith(request.target_old) for request, answer in zip(data, says, strict=True)]
    assert 0 < sum(found) < len(data)


LOCATORS = {
    "LayerSweep": [],
    "MiddleLayer": [],
    "FixedLayer": ["--model.locator.layer=1"],
    "LGA": ["--model.locator.statistic=cosine", "--model.locator.aggregate=absolute_normalised"],
}
FAST_EDIT = ["--model.editor.steps=3", "--model.editor.contexts_each=1", "--model.editor.context_lengths=[3]"]


@pytest.mark.parametrize("name", LOCATORS)
def test_fit_with_each(name, model_folder, tmp_path):
    data = write_rows(tmp_path / "requests.jsonl", [{**row, "relation": "ab"[i % 2]} for i, row in enumerate(rows(13))])
    root = tmp_path / "run"
    common = [f"--model.model_name={model_folder}", f"--data.requests={data}", *QUICK, *FAST_EDIT]
    command = ["fit", *common, f"--trainer.default_root_dir={root}", f"--model.locator={name}", *LOCATORS[name]]
    run([*command, "--trainer.limit_train_batches=1", "--attribution.checkpoint_every=1"])
    run([*command, f"--ckpt_path={root / 'attribution.ckpt'}"])  # each can be resumed
    result = json.loads((root / "attribution.json").read_text())
    assert result["locator"] == name
    assert result["num_requests"] == 13
    assert result["relations"]["num_requests"] == [7, 6]
    if name == "LayerSweep":
        assert result["settings"]["editor"]["steps"] == 3  # the module's editor
        mean = torch.tensor([result["rewrite"], result["rephrase"], result["locality"]]).mean(0)
        torch.testing.assert_close(torch.tensor(result["scores"]), mean)
    if name in ("MiddleLayer", "FixedLayer"):
        assert result["golden_layer"] == {"MiddleLayer": 2, "FixedLayer": 1}[name]


def test_causal_tracing_leaves_a_heat_map(model_folder, tmp_path, monkeypatch):
    from lga_lightning.locators import causal_tracing

    monkeypatch.setattr(
        causal_tracing, "knows_old_answer", lambda model, tokenizer, asked: torch.arange(len(asked)) != 1
    )
    data = write_rows(tmp_path / "requests.jsonl", rows(4))
    command = ["fit", f"--model.model_name={model_folder}", f"--data.requests={data}", *QUICK]
    command += ["--model.locator=CausalTracing", "--model.locator.copies=2", "--model.locator.heat_map=true"]
    run([*command, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    result = json.loads((tmp_path / "run" / "attribution.json").read_text())
    assert result["num_requests"] == 3
    assert result["num_skipped"]["the model does not answer with target_old"] == 1
    assert len(result["mlp.last_subject"]) == len(result["half_widths"]["mlp.last_subject"]) == 4
    assert (tmp_path / "run" / "heat_map.png").exists()


def test_stops_when_settled_with_one_process_and_with_two(model_folder, tmp_path, capsys):
    data = write_rows(tmp_path / "requests.jsonl", rows(120))
    command = ["fit", f"--model.model_name={model_folder}", f"--data.requests={data}", "--data.batch_size=4", *QUICK]
    command += ["--model.locator=MiddleLayer", "--attribution.stop_at_confidence=0.95"]
    run([*command, f"--trainer.default_root_dir={tmp_path / '1'}"])
    said = {1: capsys.readouterr().out}
    done = forked(*command, *TWO, f"--trainer.default_root_dir={tmp_path / '2'}")
    assert done.returncode == 0, done.stderr[-3000:]
    said[2] = done.stdout
    for devices, after in ((1, 36), (2, 40)):  # 32 requests at least, and the same choice at two looks in a row
        result = json.loads((tmp_path / str(devices) / "attribution.json").read_text())
        assert result["stopped_early"] == {"after": after, "of": 120, "confidence": 0.95}
        assert result["num_requests"] == after
        assert f"Ended early, after {after} of 120 requests" in " ".join(said[devices].split())
