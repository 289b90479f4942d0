"""``LGAModule`` under anybody's ``Trainer`` and ``DataLoader``: no data module, no callbacks, no command line."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from peft import PeftModel
from torch.utils.data import DataLoader

import lga_lightning
from lga_lightning import EvaluationConfig, LGAModule, edit, find_golden_layer
from lga_lightning.callbacks import ScoreCollector
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators import LGA
from tests.helpers.cli import FAST_METHOD, forked
from tests.helpers.models import requests, tiny_model

FORCED = EvaluationConfig(generate=False)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trainer(**settings) -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **settings)


@pytest.mark.parametrize("trainable", [False, True])
def test_fit_scores_once_and_leaves_what_the_function_finds(trainable, tokenizer, tmp_path):
    model = tiny_model("llama").requires_grad_(trainable)
    asked = requests(8)
    module = LGAModule(model=model, tokenizer=tokenizer)
    one = trainer()
    one.fit(module, DataLoader(asked, batch_size=3))
    expected = find_golden_layer(model, tokenizer, asked)
    assert one.current_epoch == 1
    assert one.progress_bar_metrics["confidence"] == pytest.approx(
        module.result.choice.confidence
    )  # the bar ends as the text says
    assert module.result.num_requests == 8
    assert module.result.golden_layer == expected.golden_layer
    assert module.result.choice.scores == pytest.approx(expected.choice.scores, rel=1e-5)
    left = json.loads((tmp_path / "attribution.json").read_text())
    assert left["scores"] == module.result.choice.scores
    assert left["model"] == "LlamaForCausalLM"
    assert {"attribution.ckpt", "layers.png", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert one.callback_metrics["layer"] == expected.golden_layer
    assert all(parameter.requires_grad == trainable for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("verb", "limit"),
    [
        ("fit", "max_epochs"),
        ("fit", "max_steps"),
        ("fit", "limit_train_batches"),
        ("validate", "limit_val_batches"),
        ("predict", "limit_predict_batches"),
    ],
)
def test_a_run_that_would_do_nothing_is_refused(verb, limit, tokenizer, tmp_path):
    module = LGAModule(layer=1, model=tiny_model("llama"), tokenizer=tokenizer)
    with pytest.raises(SettingError, match=rf"With Trainer\({limit}=0\) there is nothing to do"):
        getattr(trainer(**{limit: 0}), verb)(module, DataLoader(requests(2)))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"max_time": {"hours": 1}}, {"max_steps": 5}, {"max_epochs": -1}], ids=str)
def test_fit_ends_after_one_epoch_where_epochs_have_no_limit(options, tokenizer):
    module, one = LGAModule(model=tiny_model("llama"), tokenizer=tokenizer, locator=LGA("mlp_out")), trainer(**options)
    for count in (3, 2):  # and again
        one.fit(module, DataLoader(requests(count), batch_size=2))
        assert module.result.num_requests == count
    assert one.current_epoch == 2


def test_a_trainer_that_has_made_all_epochs_is_refused(tokenizer):
    module, one = (
        LGAModule(model=tiny_model("llama"), tokenizer=tokenizer, locator=LGA("mlp_out")),
        trainer(max_epochs=1),
    )
    one.fit(module, DataLoader(requests(3)))
    with pytest.raises(SettingError, match=r"has made all of its epochs \(max_epochs=1\).* Take a new one"):
        one.fit(module, DataLoader(requests(2)))


def test_a_full_disk_leaves_the_checkpoint_before(tokenizer, tmp_path, monkeypatch):
    written = []

    class Disk(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            super().save_checkpoint(checkpoint, path, storage_options)
            written.append(path)
            if len(written) == 2:
                content = Path(path).read_bytes()
                Path(path).write_bytes(content[: len(content) // 2])
                raise OSError(28, "No space left on device")

    module = LGAModule(model=tiny_model("llama"), tokenizer=tokenizer)
    with pytest.raises(OSError, match="No space left"):
        trainer(callbacks=[ScoreCollector(checkpoint_every=1)], plugins=[Disk()]).fit(module, DataLoader(requests(4)))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["attribution.ckpt"]
    left = torch.load(tmp_path / "attribution.ckpt")["callbacks"]["ScoreCollector"]["scores"]["index"]
    assert left.tolist() == [0]


def test_requests_may_be_shuffled_and_collated_by_hand(tokenizer):
    model, asked = tiny_model("llama"), requests(7)
    found = []
    for options in ({}, {"shuffle": True, "collate_fn": list}):
        module = LGAModule(model=model, tokenizer=tokenizer, locator=LGA("mlp_out"))
        trainer().fit(module, DataLoader(asked, batch_size=2, **options))
        found.append(module.result.choice.scores)
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_validate_and_predict_and_an_adapter_that_names_the_model(tokenizer, tmp_path):
    model, asked = tiny_model("gpt2"), requests(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = LGAModule(
        "my-lab/my-model", layer=2, editor=RROME(**FAST_METHOD), model=model, tokenizer=tokenizer, evaluation=FORCED
    )
    (means,) = trainer(inference_mode=False).validate(module, DataLoader(asked, batch_size=2), verbose=False)
    content = json.loads((tmp_path / "validation.json").read_text())
    assert content["metrics"]["rewrite"]["after"] == pytest.approx(means["rewrite/after"])
    assert "generated" not in content["metrics"]["rewrite"]
    assert [row["prompt"] for row in content["requests"]] == [request.prompt for request in asked]
    assert content["model"] == "my-lab/my-model"

    trainer(inference_mode=False).predict(module, DataLoader(asked, batch_size=2))
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "my-lab/my-model"
    delta = edit(model, tokenizer, asked, layer=2, editor=RROME(**FAST_METHOD))
    adapted = PeftModel.from_pretrained(tiny_model("gpt2"), tmp_path / "adapter")
    ids = torch.arange(5, 25).view(2, 10)
    with delta.attached(model):
        expected = model(input_ids=ids).logits
    torch.testing.assert_close(adapted(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_each_request_edited_alone_comes_back_from_predict(tokenizer, tmp_path):
    model, asked = tiny_model("llama"), requests(3)
    module = LGAModule(
        layer=1, editor=RROME(**FAST_METHOD), mode="independent", model=model, tokenizer=tokenizer, evaluation=FORCED
    )
    batches = trainer(inference_mode=False).predict(module, DataLoader(asked, batch_size=2))
    assert [request for batch in batches for request in batch.requests] == asked
    assert len(list((tmp_path / "adapter").iterdir())) == 3
    name = module.editor.compute_each(model, tokenizer, asked[2:], 1)[0]
    torch.testing.assert_close(
        batches[1].deltas[0].matrix(*name.updates), name.matrix(*name.updates), rtol=1e-3, atol=1e-4
    )


def test_what_is_no_request_is_refused(tokenizer):
    module = LGAModule(model=tiny_model("llama"), tokenizer=tokenizer)
    with pytest.raises(DataError, match="works on requests"):
        trainer().fit(module, DataLoader(["a", "b"]))


def test_a_name_or_a_model(tokenizer):
    assert LGAModule().model_name == "smollm2-135m"
    assert LGAModule("some/model").model_name == "some/model"
    assert LGAModule(model=tiny_model("llama"), tokenizer=tokenizer).model_name == "LlamaForCausalLM"


HOST = """
import json, sys
from pathlib import Path
import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from lga_lightning import LayerAttribution, LGAModule
from lga_lightning.locators import LGA
from lga_lightning.results.attribution import LocatorResult
from tests.helpers.models import requests, tiny_model, tiny_tokenizer

class Host(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.llm = tiny_model("llama").requires_grad_(True)

    def training_step(self, batch):
        return self.llm(input_ids=batch, labels=batch).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)  # the same model on one process and on two

def main(devices, what):
    L.seed_everything(0)
    torch.set_num_threads(1)
    options = dict(accelerator="cpu", devices=devices, logger=False, enable_progress_bar=False, enable_model_summary=False)
    if what == "host":
        watch = LayerAttribution(requests(7), tokenizer=tiny_tokenizer(), locator=LGA("mlp_out"), batch_size=2)
        best = ModelCheckpoint(dirpath=f"best-{devices}", monitor="lga/layer_1", mode="max")
        trainer = L.Trainer(max_epochs=1, callbacks=[watch, best], **options)
        trainer.fit(Host(), DataLoader(torch.randint(3, 300, (8, 12)), batch_size=2))
        result = watch.result
        assert trainer.callback_metrics["lga/golden_layer"] == result.golden_layer
        assert best.best_model_score is not None
    else:
        module = LGAModule(model=tiny_model("llama"), tokenizer=tiny_tokenizer(), locator=LGA("mlp_out"))
        strategy = "ddp_spawn" if what == "spawned" and devices == 2 else "auto"
        trainer = L.Trainer(strategy=strategy, **options)
        trainer.fit(module, DataLoader(requests(7), batch_size=2))
        result = LocatorResult.load(Path("attribution.json"))  # processes that are spawned keep their module
    if trainer.is_global_zero:
        print("RESULT " + json.dumps([result.num_requests, result.choice.scores]))

if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("what", ["host", "module", "spawned"])
def test_two_processes_find_what_one_does(what, tmp_path, monkeypatch):
    """A host's ``LayerAttribution``, whose metrics ``ModelCheckpoint`` monitors; and ``LGAModule`` with a plain DataLoader."""
    (tmp_path / "host.py").write_text(HOST)
    monkeypatch.setenv("PYTHONPATH", str(Path(lga_lightning.__file__).parents[1]))  # of the second process
    found = []
    for devices in (1, 2):
        done = forked(str(devices), what, cwd=tmp_path, script=tmp_path / "host.py")
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.split("RESULT ")[1].splitlines()[0]))
    (one, scores), (two, scores_of_two) = found
    assert one == two == 7
    assert scores_of_two == pytest.approx(scores, rel=1e-6)


def test_edits_one_after_the_other_need_all_requests_on_every_process(tokenizer, monkeypatch):
    module = LGAModule(
        layer=1, editor=RROME(**FAST_METHOD), mode="sequential", model=tiny_model("llama"), tokenizer=tokenizer
    )
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    with pytest.raises(SettingError, match="Use EditDataModule"):
        trainer(inference_mode=False).validate(module, DataLoader(requests(3), batch_size=2), verbose=False)


def test_requests_are_told_apart_by_what_they_say():
    one = EditRequest("Rome is in", "Rome", "France", "Italy")
    assert repr(one) == repr(EditRequest("Rome is in", "Rome", "France", "Italy"))
    assert repr(one) != repr(EditRequest("Rome is in", "Rome", "Spain", "Italy"))


@pytest.mark.parametrize("has", [True, False])
def test_a_dtype_that_the_cpu_cannot_multiply_is_said_to_be_slow(has, tokenizer, monkeypatch, recwarn):
    monkeypatch.setattr("lga_lightning.modules.frozen.multiplies", lambda dtype: has)
    module = LGAModule(model=tiny_model("llama"), tokenizer=tokenizer)
    trainer().fit(module, DataLoader(requests(2), batch_size=2))
    said = [str(warning.message) for warning in recwarn if "no instructions for float32" in str(warning.message)]
    assert len(said) == (not has)
