"""A model whose modules are spread over devices (``device_map``): the results are those of the whole model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from lga_lightning import MEMIT, RROME, EvaluationConfig, LGAModule, edit
from lga_lightning.callbacks import AdapterWriter
from lga_lightning.editing import AlphaEdit, CrispEdit, UltraEdit
from lga_lightning.editing.running_statistics import RunningStatistics
from lga_lightning.editing.session import EditSession
from lga_lightning.editing.session_memory import pack_history
from lga_lightning.exceptions import ModelError
from lga_lightning.models.loading import load_model
from lga_lightning.models.weights import weights_hash
from tests.editing.helpers import ALL, method_for
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import requests, tiny_model, tiny_tokenizer
from tests.helpers.pretend_devices import NAME, MixedDevicesError, PretendedDevices, spread
from tests.helpers.sharded import trainer

EDITORS = {"llama": RROME, "gpt2": RROME, "gemma3_text": MEMIT}
FORCED = EvaluationConfig(generate=False)


@pytest.fixture(params=sorted(EDITORS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny model, in a folder of its family's name."""
    tiny_model(request.param).save_pretrained(tmp_path / request.param)
    tiny_tokenizer().save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def half_on_disk(folder: Path) -> dict[str, str]:
    """A map that has every other block, and the last norm, read from the disk whenever it runs."""
    blocks, norm = ("transformer.h", "transformer.ln_f") if folder.name == "gpt2" else ("model.layers", "model.norm")
    first = (
        ["transformer.wte", "transformer.wpe"] if folder.name == "gpt2" else ["model.embed_tokens", "model.rotary_emb"]
    )
    found = dict.fromkeys([*first, "lm_head"], "cpu")
    return {**found, **{f"{blocks}.{layer}": ("disk", "cpu")[layer % 2] for layer in range(4)}, norm: "disk"}


def test_results_are_those_of_the_whole_model(folder, tmp_path):
    asked, found = requests(4), {}
    for name, device_map in (("whole", None), ("spread", half_on_disk(folder))):
        root = tmp_path / name
        module = LGAModule(
            str(folder),
            [1, 2] if folder.name == "gemma3_text" else 2,
            editor=EDITORS[folder.name](**FAST_METHOD),
            mode="sequential",
            evaluation=FORCED,
            device_map=device_map,
        )
        trainer(root, False).fit(module, DataLoader(asked, batch_size=2))
        trainer(root, False).validate(module, DataLoader(asked, batch_size=2), verbose=False)
        trainer(root, False, AdapterWriter(general=False)).predict(module, DataLoader(asked, batch_size=2))
        found[name] = module, json.loads((root / "validation.json").read_text())
    (whole, one), (spread, two) = found.values()
    assert any(parameter.is_meta for parameter in spread.llm.parameters())
    assert weights_hash(spread.llm) == weights_hash(whole.llm)
    assert spread.result.choice.scores == pytest.approx(whole.result.choice.scores, rel=1e-5)
    for name, metric in one["metrics"].items():
        assert two["metrics"][name]["after"] == pytest.approx(metric["after"], abs=1e-5), name
    factors, others = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in found)
    for name, factor in factors.items():
        torch.testing.assert_close(others[name], factor, rtol=1e-3, atol=1e-5)


def test_what_is_put_aside_is_not_written_to(tmp_path):
    folder = tmp_path / "llama"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    model, tokenizer = load_model(str(folder), device_map=half_on_disk(folder))
    delta = edit(model, tokenizer, requests(1), layer=0, editor=RROME(**FAST_METHOD))
    with pytest.raises(ModelError, match=r"put aside until it runs .*`attached`"):
        delta.merge_(model)
    module = LGAModule(str(folder), 1, editor=RROME(**FAST_METHOD), device_map=half_on_disk(folder))
    with pytest.raises(ModelError, match=r"without --edits\.merge"):
        trainer(tmp_path, False, AdapterWriter(merge=True)).predict(module, DataLoader(requests(1)))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("layers", [[2], [1, 2]])
@pytest.mark.parametrize("kind", ALL)
def test_edits_on_two_devices_are_those_on_one(kind, layers, family, tokenizer):
    model, other, data = tiny_model(family), spread(tiny_model(family), 2), requests(3)
    method, on_two = method_for(kind, model), method_for(kind, other)
    if hasattr(method, "contexts"):
        on_two.contexts._sampled[other] = method.contexts.of(model, tokenizer)
    expected = method.compute(model, tokenizer, data, layers)
    with PretendedDevices():
        found = on_two.compute(other, tokenizer, data, layers)
    for name, update in expected.updates.items():
        assert update.matrix.norm() > 0
        torch.testing.assert_close(found.updates[name].matrix, update.matrix, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [MEMIT, AlphaEdit, CrispEdit])
def test_a_model_that_has_moved_is_edited_by_the_same_method(kind, tokenizer):
    model, data = tiny_model("llama"), requests(2)
    method = method_for(kind, model)
    if hasattr(method, "contexts"):
        method.contexts.of(model, tokenizer)
    spread(model, 2)
    with PretendedDevices():
        first = method.compute(model, tokenizer, data, 1)
        for module in model.modules():
            module.__dict__.pop("forward", None)
        spread(model, 1)
        again = method.compute(model, tokenizer, data, 1)
    (name,) = first.updates
    torch.testing.assert_close(again.matrix(name), first.matrix(name))


def test_statistics_of_two_devices_are_added():
    rows = torch.arange(12.0).reshape(4, 3)
    with PretendedDevices():
        both = RunningStatistics.of(rows[:2].to("cuda:0"), True) + RunningStatistics.of(rows[2:].to("cuda:1"), True)
        assert both.scatter.device == torch.device("cuda:1")
    torch.testing.assert_close(both.scatter, RunningStatistics.of(rows, True).scatter)


@pytest.mark.parametrize("kind", [AlphaEdit, CrispEdit, UltraEdit])
def test_what_a_session_remembers_is_where_its_modules_are(kind, tokenizer):
    model, other, data = tiny_model("llama"), spread(tiny_model("llama"), 2), requests(4)
    whole = EditSession(method_for(kind, model), model, tokenizer, [1, 2])
    whole.edit(data[:2])
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    whole.edit(data[2:])
    session = EditSession(method_for(kind, other), other, tokenizer, [1, 2])
    if hasattr(whole.method, "contexts"):
        session.method.contexts._sampled[other] = whole.method.contexts.of(model, tokenizer)
    with PretendedDevices():
        session.load_state_dict(state, data[:2])
        remembered = pack_history(session.history)
        places = {name: getattr(tensor, NAME, None) for name, tensor in remembered.items() if tensor.dim()}
        if kind is not UltraEdit:  # its rows come out of a backward pass, of whose devices nothing is pretended
            session.edit(data[2:])
    assert places.keys() == {name for name, tensor in pack_history(whole.history).items() if tensor.dim()}
    for name, device in places.items():
        assert str(device) == ("cuda:0" if "1" in name.partition("/")[0] else "cuda:1")
    for name, update in whole.delta.updates.items() if kind is not UltraEdit else ():
        torch.testing.assert_close(session.delta.matrix(name), update.matrix, rtol=1e-3, atol=1e-5)


def test_devices_are_not_mixed(tokenizer):
    with PretendedDevices():
        one, other = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
        assert (one.device, (2 * other).device) == (torch.device("cuda:0"), torch.device("cuda:1"))
        assert (one + other.to(one)).device == one.device
        assert one[torch.tensor([1])].device == one.device
        for wrong in (lambda: one + other, lambda: one[other.long()], lambda: torch.cat([one, other])):
            with pytest.raises(MixedDevicesError):
                wrong()
