"""``LayerAttribution`` in a training run of somebody else's."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lga_lightning.callbacks import ApplyEdits, LayerAttribution, ScoreCollector
from lga_lightning.callbacks.host import HostModel
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, WeightDelta
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.exceptions import DataError, InvalidRequest, LGAError, SettingError
from lga_lightning.locators import LGA, FixedLayer
from tests.helpers.data import rows, write_rows
from tests.helpers.hosts import Host, train
from tests.helpers.models import requests, tiny_model, tiny_tokenizer


@pytest.fixture
def callback(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    data = write_rows(tmp_path / "requests.jsonl", rows(5))
    return LayerAttribution(
        proxies=str(data),
        model="net.llm",
        tokenizer=str(tmp_path / "tokenizer"),
        locator=LGA("mlp_out"),
        batch_size=2,
    )


def test_scores_are_logged_and_training_is_what_it_is_without(callback, tmp_path, tokenizer):
    alone = train(tmp_path / "alone", [])
    host = train(tmp_path / "watched", [callback])
    assert host.losses == alone.losses
    for ours, theirs in zip(host.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in host.modules())
    assert not host.net.llm.model.embed_tokens.weight.requires_grad
    assert host.net.llm.model.norm.weight.requires_grad

    log = (tmp_path / "watched" / "metrics.csv").read_text().splitlines()
    assert sum("lga/layer_3" in line for line in log[:1]) == 1
    golden = log[0].split(",").index("lga/golden_layer")
    assert sum(bool(line.split(",")[golden]) for line in log[1:]) == 3  # before training, and after each epoch
    result = json.loads((tmp_path / "watched" / "attribution.json").read_text())
    assert result["model"] == "LlamaForCausalLM"  # and not what the tokenizer was loaded from
    assert result["num_requests"] == 5
    assert result["scope"] == "mlp_out"
    # the last scores are those of the trained model
    from lga_lightning.data import load_requests

    values = LGA("mlp_out").score(host.net.llm, tokenizer, load_requests(tmp_path / "requests.jsonl").requests).values
    torch.testing.assert_close(torch.tensor(result["scores"]), values[:, 0].sum(0), rtol=1e-4, atol=1e-5)


def test_says_what_is_missing(callback, tmp_path):
    with pytest.raises(SettingError, match=r"ScoreCollector collects what LGAModule finds out, and Host is none"):
        train(tmp_path, [ScoreCollector()])
    with pytest.raises(DataError, match="was not loaded by a name"):
        train(tmp_path, [LayerAttribution(requests(1), model="net.llm")])
    callback.model = "net.model"
    with pytest.raises(DataError, match=r"language model was looked for at `model='net\.model'`"):
        train(tmp_path, [callback])
    callback.model = "dropout"
    with pytest.raises(DataError, match=r"a Dropout, which is no model of transformers .* Say where"):
        train(tmp_path, [callback])


@pytest.mark.parametrize("tokens", [None, [3, 4]], ids=["matrices", "and embeddings of tokens"])
def test_a_model_that_is_being_fine_tuned_with_lora(tokens, tokenizer):
    peft = pytest.importorskip("peft")
    model = tiny_model("llama")
    data = [request for request in requests(3)]
    plain = {
        scope: LGA(scope, statistic="dot").score(model, tokenizer, data).values
        for scope in ("mlp", "mlp_out", "attention", "block")
    }
    config = peft.LoraConfig(
        r=2, target_modules=["down_proj", "q_proj"], lora_dropout=0.5, trainable_token_indices=tokens
    )
    adapted = peft.get_peft_model(model, config)
    for scope, values in plain.items():
        torch.testing.assert_close(LGA(scope, statistic="dot").score(adapted, tokenizer, data).values, values)
    assert any(parameter.requires_grad for parameter in adapted.parameters())


def test_proxies_without_an_old_answer(callback, tmp_path):
    found = [{name: value for name, value in row.items() if name != "target_old"} for row in rows(3)]
    callback.proxies = str(write_rows(tmp_path / "open.jsonl", found))
    train(tmp_path, [callback])
    assert callback.result.num_requests + sum(callback.result.num_skipped.values()) == 3


@pytest.mark.parametrize("hook", ["setup", "configure_model"])
def test_a_model_that_the_host_makes_late(hook, callback, tmp_path):
    """Both hooks come after the callbacks' ``setup``."""

    class Late(Host):
        def __init__(self) -> None:
            super().__init__()
            self.made, self.net = self.net, None

        def make(self, stage: str = "") -> None:
            self.net = self.made

    setattr(Late, hook, Late.make)
    edits = ApplyEdits(
        callback.proxies,
        model="net.llm",
        tokenizer=callback.tokenizer,
        editor=RROME(steps=3, contexts_each=0, second_moment="identity"),
    )
    callback.locator = FixedLayer(1)
    host = train(tmp_path, [callback, edits], Late)
    assert callback.result.golden_layer == 1
    assert [*edits.delta.by_block(host.net.llm)] == [1]


def test_edits_are_made_where_the_module_was_trained(tmp_path, tokenizer, monkeypatch):
    steps, made, merge = [], HostModel.edit, WeightDelta.merge_

    class Moved(Host):
        def to(self, device: torch.device) -> Host:
            steps.append(device)
            return self

    def noted(step, call):
        return lambda *args: steps.append(step) or call(*args)

    monkeypatch.setattr(HostModel, "edit", noted("edit", made))
    monkeypatch.setattr(WeightDelta, "merge_", noted("merge", merge))
    for name in ("cuda:1", "cpu"):
        steps.clear()
        strategy = SimpleNamespace(root_device=torch.device(name))
        trainer = SimpleNamespace(strategy=strategy, callbacks=[], default_root_dir=tmp_path, is_global_zero=True)
        host = Moved()
        edits = ApplyEdits(
            requests(3),
            "net.llm",
            tokenizer,
            1,
            RROME(steps=3, contexts_each=0, second_moment="identity"),
            evaluation=EvaluationConfig(generate=False, scored=2),
            verbose=False,
        )
        edits.setup(trainer, host, "fit")
        edits.on_fit_start(trainer, host)
        edits.on_fit_end(trainer, host)
        assert steps[:2] == [torch.device(name), "edit"]
        assert steps[-2:] == [torch.device("cpu"), "merge"]  # where it was before
        assert set(steps[2:-2]) <= {"merge"}  # in place for the while
        assert (edits.result.num_requests, edits.result.num_scored) == (3, 2)
        assert edits.result.drift[-1].largest_change > 0
        assert edits.originals.weights


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"every_n_epochs": 0}])
def test_bad_settings(setting):
    with pytest.raises(SettingError, match="must be at least 1"):
        LayerAttribution(**setting)


def test_bad_settings_of_a_collector():
    with pytest.raises(SettingError, match="`checkpoint_every` must be at least 1"):
        ScoreCollector(checkpoint_every=0)
    with pytest.raises(SettingError, match="`stop_at_confidence` must be above 0"):
        ScoreCollector(stop_at_confidence=1.5)


def test_proxies_and_tokenizer_may_be_objects(tmp_path, tokenizer):
    watch = LayerAttribution(requests(4), model="net.llm", tokenizer=tokenizer, locator=LGA("mlp_out"))
    host = train(tmp_path, [watch])
    values = LGA("mlp_out").score(host.net.llm, tokenizer, requests(4)).values
    torch.testing.assert_close(torch.tensor(watch.result.choice.scores), values[:, 0].sum(0), rtol=1e-4, atol=1e-5)
    assert watch.result.model == "LlamaForCausalLM"  # built from a config


def test_metrics_can_be_monitored(callback, tmp_path):
    """In every epoch, also in those in which nothing is scored anew."""
    callback.every_n_epochs = 2
    stop = EarlyStopping(monitor="lga/confidence", patience=5, mode="max")
    best = ModelCheckpoint(dirpath=tmp_path / "best", monitor="lga/layer_2", mode="max", save_top_k=-1)
    train(tmp_path, [callback, stop, best], enable_checkpointing=True)
    assert len(best.best_k_models) == 2
    assert best.best_model_score is not None
    assert stop.best_score == callback.result.confidence


@pytest.mark.parametrize("layer", ["golden", 2, "1-2"])
def test_edits_at_the_end_of_a_training_run(layer, callback, tmp_path, capsys):
    edits = ApplyEdits(
        callback.proxies,
        model="net.llm",
        tokenizer=callback.tokenizer,
        layer=layer,
        editor=RROME(steps=3, contexts_each=0, second_moment="identity"),
        model_name="mine",
        evaluation=EvaluationConfig(generate=False),
    )
    callback.locator = FixedLayer(1)
    callback.model_name = "mine"
    host = train(tmp_path, [callback, edits])
    said = " ".join(capsys.readouterr().out.split())
    assert "of mine, 5 requests of requests.jsonl, edited together" in said
    assert "The edits are in the weights now" in said
    (files,) = re.findall(r"Files: (.*?/)([^/]*?\.png)", said)
    assert all((tmp_path / name).is_file() for name in files[1].split(", "))
    assert edits.result.metrics["rewrite"].after >= edits.result.metrics["rewrite"].before
    expected = {"golden": [callback.result.choice.golden_layer], 2: [2], "1-2": [1, 2]}[layer]
    assert sorted(edits.delta.by_block(host.net.llm)) == expected
    edited = {name: tensor.clone() for name, tensor in host.net.llm.state_dict().items()}
    edits.originals.restore_()
    trained = train(tmp_path, []).net.llm.state_dict()  # the same training without us
    for name, tensor in host.net.llm.state_dict().items():
        assert torch.equal(tensor, trained[name])
    changed = [name for name, tensor in edited.items() if not torch.equal(tensor, trained[name])]
    assert changed == [f"model.layers.{number}.mlp.down_proj.weight" for number in expected]


def test_edits_that_cannot_be_made_are_refused_before_the_training(callback, tmp_path):
    with pytest.raises(DataError, match="no such attribute"):
        train(tmp_path, [ApplyEdits(callback.proxies, model="net.lm", tokenizer=callback.tokenizer)])
    with pytest.raises(DataError, match=r"does not exist|cannot be read|no file"):
        train(tmp_path, [ApplyEdits("nowhere.jsonl", model="net.llm", tokenizer=callback.tokenizer)])
    with pytest.raises(SettingError, match="batch_size"):
        ApplyEdits("a.jsonl", batch_size=0)
    long = EditRequest("Rome is in " + "x" * 90_000, "Rome", "France")
    for facts, what in (([long], "positions"), ([EditRequest("Rome is in", None, "France")], "subject")):
        with pytest.raises(InvalidRequest, match=what):
            train(tmp_path, [ApplyEdits(facts, model="net.llm", tokenizer=callback.tokenizer, layer=1), NoStep()])
    fact = EditRequest("Rome is in", "Rome", "France")
    two = [fact, replace(fact, target_new="Spain")]
    words = (("golden", "no attribution"), (99, "Layer 99 is out of range"), ("banana", "means nothing"))
    for facts, layer, what in ((two, 1, "contradict each other"), *(([fact], *word) for word in words)):
        edits = ApplyEdits(facts, model="net.llm", tokenizer=callback.tokenizer, layer=layer)
        with pytest.raises(LGAError, match=what):
            train(tmp_path, [edits, NoStep()])
    proxy = replace(fact, split="proxy")
    edits = ApplyEdits([proxy, replace(two[1], split="test")], model="net.llm", tokenizer=callback.tokenizer, layer=1)
    train(tmp_path, [edits])
    assert [request.target_new for request in edits.delta.facts.requests] == ["Spain"]
    probed = {"evaluation": EvaluationConfig(probes=("contradiction",)), "tokenizer": callback.tokenizer, "layer": 1}
    fits = EditRequest("Rome is in " + "x" * 1100, "Rome", "France")
    with pytest.raises(InvalidRequest, match="It is a probe"):
        train(tmp_path, [ApplyEdits([fits], model="net.llm", **probed), NoStep()])


class NoStep(L.Callback):
    """Says so where something is trained."""

    def on_train_batch_start(self, *given: object) -> None:
        raise AssertionError("trained")
