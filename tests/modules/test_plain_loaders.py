"""``LGAModule`` under any ``DataLoader`` and settings of a ``Trainer``; one module for several runs."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, Subset

from lga_lightning import EditDataModule, EvaluationConfig, LGAModule
from lga_lightning.callbacks import EditReport
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EMMET, FTM, CrispEdit
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators import LGA, EditForecast, LayerSweep
from lga_lightning.models.chat import ChatTokenizer
from tests.editing.helpers import ALL, method_for
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_model, tiny_tokenizer
from tests.helpers.runs import module, trainer
from tests.helpers.tokenizers import LINES

ASKED = requests(8)
LOADERS = {
    "workers": {"batch_size": 3, "num_workers": 2},  # requests come back pickled
    "batch sampler": {"batch_sampler": BatchSampler(SequentialSampler(ASKED), 3, drop_last=False)},
    "no batches": {"batch_size": None},
    "tuples": {"batch_size": 3, "collate_fn": tuple},
}
FORCED = EvaluationConfig(generate=False)


def made(tokenizer, **settings):
    return module(tokenizer, **{"locator": LGA("mlp_out"), "evaluation": FORCED, **settings})


def scores(tokenizer, folder: Path, loader: DataLoader, **settings) -> tuple[int, list[float]]:
    scored = made(tokenizer, **settings)
    trainer(folder).fit(scored, loader)
    return scored.result.num_requests, scored.result.choice.scores


def validation(folder: Path, edited, loader: DataLoader) -> dict:
    trainer(folder).validate(edited, loader, verbose=False)
    content = json.loads((folder / "validation.json").read_text())
    return {name: part for name, part in content.items() if name not in ("growth", "checksum")}  # of times


@pytest.mark.parametrize("kind", LOADERS)
def test_loaders_of_all_kinds(kind, tokenizer, tmp_path):
    count, found = scores(tokenizer, tmp_path, DataLoader(ASKED, **LOADERS[kind]))
    expected = scores(tokenizer, tmp_path, DataLoader(ASKED, batch_size=3))[1]
    assert count == 8
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_part_of_a_data_set(tokenizer, tmp_path):
    found = scores(tokenizer, tmp_path, DataLoader(Subset(ASKED, [1, 3, 5]), batch_size=2))
    assert found == scores(tokenizer, tmp_path, DataLoader(ASKED[1:6:2], batch_size=2))


def test_what_was_changed_on_the_way_is_refused(tokenizer, tmp_path):
    loader = DataLoader(ASKED, batch_size=2, collate_fn=lambda batch: [EditRequest("Rome is", "Rome", "new", "old")])
    with pytest.raises(DataError, match=r"A batch holds EditRequest\(prompt='Rome is'.*not in `collate_fn`"):
        scores(tokenizer, tmp_path, loader)


@pytest.mark.parametrize("verb", ["validate", "predict"])
def test_several_loaders_are_refused(verb, tokenizer, tmp_path):
    loaders = [DataLoader(ASKED[:4], batch_size=2), DataLoader(ASKED[4:], batch_size=2)]
    with pytest.raises(DataError, match=r"was given 2 dataloaders\. Give one"):
        getattr(trainer(tmp_path), verb)(made(tokenizer), loaders)


@pytest.mark.parametrize("mode", ["independent", "batch", "sequential"])
def test_the_same_request_twice_counts_once(mode, tokenizer, tmp_path):
    twice = [*ASKED[:3], *ASKED[:2]]
    once = validation(tmp_path, made(tokenizer, mode=mode), DataLoader(ASKED[:3], batch_size=3))
    assert validation(tmp_path, made(tokenizer, mode=mode), DataLoader(twice, batch_size=3)) == once


def test_groups_are_as_large_as_the_batches(tokenizer, tmp_path):
    loader = DataLoader(ASKED, **LOADERS["batch sampler"])
    assert validation(tmp_path, made(tokenizer, mode="sequential"), loader)["group_size"] == 3


def test_validation_in_the_midst_of_fit_is_left_out(tokenizer, tmp_path):
    scored, loader = made(tokenizer), DataLoader(ASKED, batch_size=3)
    trainer(tmp_path).fit(scored, loader, loader)
    assert scored.result.num_requests == 8
    assert not (tmp_path / "validation.json").exists()


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_a_precision_that_would_convert_the_model_is_refused(precision, tokenizer, tmp_path):
    scored = made(tokenizer)
    with pytest.raises(SettingError, match=rf"precision='{precision}'.*--model.dtype"):
        L.Trainer(accelerator="cpu", precision=precision, logger=False).fit(scored, DataLoader(ASKED))
    assert scored.llm.dtype == torch.float32


@pytest.mark.parametrize("several", [False, True])
def test_one_module_for_all_verbs(several, tokenizer, tmp_path):
    """With one trainer, or with one each: every run is as it is alone."""
    shared = trainer(tmp_path)

    def runner(folder: str) -> L.Trainer:
        return trainer(tmp_path / folder) if several else shared

    used = made(tokenizer, mode="batch")
    runner("a").fit(used, DataLoader(ASKED, batch_size=3))
    found = used.result
    (first,) = runner("b").validate(used, DataLoader(ASKED[:5], batch_size=2), verbose=False)
    runner("c").predict(used, DataLoader(ASKED[:4], batch_size=2))
    assert used.result is found
    (again,) = runner("d").validate(used, DataLoader(ASKED[:5], batch_size=2), verbose=False)
    assert again == first
    runner("e").fit(used, DataLoader(ASKED[:3], batch_size=3))
    assert used.result.num_requests == 3


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_a_trainer_of_default_settings_edits_by_every_method(kind, tokenizer, tmp_path):
    """In inference mode, too."""
    model = tiny_model("llama")
    editor = CrispEdit(epochs=2, curvature_tokens=300) if kind is CrispEdit else method_for(kind, model)
    used = LGAModule(layer=[1], editor=editor, mode="sequential", model=model, tokenizer=tokenizer, evaluation=FORCED)
    report = EditReport(generate=False, general=False, resamples=2)
    quiet = {"logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    L.Trainer(accelerator="cpu", callbacks=[report], **quiet).validate(used, DataLoader(ASKED[:2]), verbose=False)
    assert used.schedule.delta.updates


def test_a_module_may_be_copied(tokenizer, tmp_path):
    scored = made(tokenizer)
    trainer(tmp_path).fit(scored, DataLoader(ASKED, batch_size=3))
    for copied in (copy.deepcopy(scored), pickle.loads(pickle.dumps(scored))):
        trainer(tmp_path).fit(copied, DataLoader(ASKED, batch_size=3))
        assert copied.result.choice.scores == scored.result.choice.scores


def test_shared_weights_are_left_alone_by_every_name(tokenizer):
    tied = made(tokenizer)
    tied.llm = tiny_model("llama", tie_word_embeddings=True)
    tied.configure_model()
    assert {"llm.lm_head.weight", "llm.model.embed_tokens.weight"} <= {*tied._ddp_params_and_buffers_to_ignore}
    assert "llm.model.rotary_emb.inv_freq" in tied._ddp_params_and_buffers_to_ignore


@pytest.mark.parametrize("given", [False, True])
def test_a_chat_ends_with_the_data_that_asked_for_it(given, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = LINES
    scored = made(ChatTokenizer(tokenizer) if given else tokenizer)
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(3))), chat_template=not given)
    trainer(tmp_path).fit(scored, datamodule=data)
    assert isinstance(scored.tokenizer, ChatTokenizer) is not given
    trainer(tmp_path).fit(scored, DataLoader(ASKED, batch_size=3))
    assert isinstance(scored.tokenizer, ChatTokenizer) is given
    assert scored.data.in_chat is given
    assert scored.result.data == "a list of requests" + ", in the chat template" * given


def test_no_facts_are_not_the_bundled_ones():
    with pytest.raises(DataError, match="a list of requests holds no usable request"):
        EditDataModule(facts=[]).setup("predict")
    with pytest.raises(DataError, match="not from both"):
        EditDataModule("facts.jsonl", facts=[])


def test_checkpoints_of_others_are_refused(tokenizer, tmp_path):
    scored, loader = made(tokenizer), DataLoader(ASKED, batch_size=3)
    trainer(tmp_path).fit(scored, loader)
    path = tmp_path / "attribution.ckpt"
    with pytest.raises(DataError, match="belongs to another run: its requests"):
        trainer(tmp_path).fit(made(tokenizer), DataLoader(ASKED[:4]), ckpt_path=path)
    trainer(tmp_path).fit(made(tokenizer), DataLoader(ASKED, batch_size=2), ckpt_path=path)
    content = torch.load(path)
    del content["lga_scores_of"]
    torch.save(content, path)
    with pytest.raises(DataError, match=r"is not a checkpoint of this `fit`, which leaves attribution\.ckpt"):
        trainer(tmp_path).fit(made(tokenizer), loader, ckpt_path=path)


def test_a_resumed_run_does_not_shorten_the_next(tokenizer, tmp_path):
    scored = made(tokenizer)
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(5))), batch_size=2)
    trainer(tmp_path).fit(scored, datamodule=data)
    trainer(tmp_path).fit(scored, datamodule=data, ckpt_path=tmp_path / "attribution.ckpt")
    assert len(data.train_dataloader()) == 1  # all is done, and one batch a run must have
    trainer(tmp_path).fit(scored, datamodule=data)
    assert len(data.train_dataloader()) == 3
    assert scored.result.num_requests == 5


def test_scores_that_depend_on_the_batch_are_not_taken_up_with_other_batches(tokenizer, tmp_path):
    def fit(together, batch_size, **resumed):
        sweep = LayerSweep(FTM(steps=1), layers=[1], together=together)
        scored = made(tokenizer, locator=sweep, editor=FTM(steps=1))
        trainer(tmp_path).fit(scored, DataLoader(ASKED[:4], batch_size=batch_size), **resumed)
        return scored.result.choice.scores

    path = tmp_path / "attribution.ckpt"
    alone = fit(False, 2)
    assert fit(False, 4, ckpt_path=path) == alone
    together = fit(True, 2)
    assert fit(True, 2, ckpt_path=path) == together
    with pytest.raises(DataError, match="belongs to another run: its batch size is '2', not '4'"):
        fit(True, 4, ckpt_path=path)


def test_scores_of_windows_are_not_taken_up_for_windows_of_another_length(tokenizer, tmp_path):
    def fit(window, **resumed):
        scored = made(tokenizer, locator=EditForecast(), editor=EMMET(window=window, second_moment="identity"))
        trainer(tmp_path).fit(scored, DataLoader(ASKED[:4]), **resumed)
        return scored.result

    path = tmp_path / "attribution.ckpt"
    first = fit(3)
    assert fit(3, ckpt_path=path).choice.scores == first.choice.scores
    with pytest.raises(DataError, match="belongs to another run: its editor"):
        fit(2, ckpt_path=path)
