"""Every decoder family of transformers that fits: scores, forecasts, edits, adapters, and a host that trains one."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from peft import PeftModel
from torch.utils.data import DataLoader

from lga_lightning.callbacks import LayerAttribution
from lga_lightning.editing import MEMIT, RROME, WeightDelta, multi_layer
from lga_lightning.editing.context_templates import in_contexts
from lga_lightning.editing.updates import LowRankUpdate
from lga_lightning.exceptions import ModelError
from lga_lightning.locators import LGA, EditForecast
from lga_lightning.locators.first_order import encode_rows, forecast_rows
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.cached_prompts import CachedPrompts
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import IGNORE, encode_answers
from lga_lightning.models.hooks import captured_outputs, inputs_seen, replaced_output, whole_outputs
from lga_lightning.models.likelihood import answer_logits
from tests.editing.helpers import ids
from tests.families.families import EDITED, NOT_EDITED, REFUSED, SCORED, row
from tests.families.table import PAGE
from tests.helpers.families import ROUTED
from tests.helpers.forecast import forecast_by_hand
from tests.helpers.gradients import EXACT, reference, relative_error
from tests.helpers.models import requests, tiny_model

SEARCH = {"steps": 6, "context_lengths": (3,), "contexts_each": 1}  # as in tests/helpers/forecast.py
FAMILY = pytest.mark.parametrize("fine", SCORED, indirect=True)
EDITED_FAMILY = pytest.mark.parametrize("fine", EDITED, indirect=True)


@pytest.fixture(scope="module")
def fine(request: pytest.FixtureRequest):
    """A tiny model of a family in float64, for all of its tests."""
    return tiny_model(request.param, torch.float64)


def editor() -> RROME:
    return RROME(second_moment="identity", **SEARCH)


@FAMILY
@pytest.mark.usefixtures("exact")
def test_scores_are_those_of_autograd(fine, tokenizer):
    data = requests(2)
    expected = torch.stack([reference(fine, tokenizer, request, "mlp_out") for request in data])
    found = LGA("mlp_out", loss="answer").score(fine, tokenizer, data).values
    assert relative_error(found, expected) < EXACT


@pytest.mark.parametrize("fine", [name for name in SCORED if name not in ROUTED], indirect=True)
@pytest.mark.usefixtures("exact")
def test_a_forecast_is_that_of_autograd(fine, tokenizer):
    data = requests(1)
    expected = forecast_by_hand(fine, editor(), tokenizer, data[0])
    rows = encode_rows(tokenizer, data, [[]])
    found = forecast_rows(fine, editor(), rows, 1)
    values = torch.cat([torch.stack([rows.ask, found.behind, found.right], 1), found.gain], 1)
    assert relative_error(values, expected) < EXACT


@EDITED_FAMILY
@pytest.mark.usefixtures("exact")
def test_passes_from_a_cache_are_whole_passes(fine, tokenizer):
    data, contexts = requests(2), ["", "It is said that"]
    texts, ends = in_contexts(data, contexts)
    batch = encode_answers(tokenizer, texts, [request.target_new for request in data for _ in contexts], ends)
    with torch.no_grad():
        expected, cached = answer_logits(fine, batch), CachedSuffix(fine, batch, layer=1)
        read = batch.labels != IGNORE
        for rows in (torch.arange(4), torch.arange(4), torch.tensor([3, 0])):
            torch.testing.assert_close(cached.select(rows).logits()[read[rows]], expected[rows][read[rows]])
    said = CachedPrompts(fine, tokenizer, texts)
    answers = [tokenizer(" Rome is in Italy", add_special_tokens=False)["input_ids"]] * 2
    _, _, nll = said.predictions([3, 0], answers)
    for place, row_ in enumerate((3, 0)):
        whole = torch.tensor([tokenizer(texts[row_])["input_ids"] + answers[place]])
        logits = fine(whole).logits[0, -len(answers[place]) - 1 : -1]
        plain = torch.nn.functional.cross_entropy(logits, whole[0, -len(answers[place]) :])
        assert float(nll[place]) == pytest.approx(float(plain), rel=1e-9)


@EDITED_FAMILY
@pytest.mark.usefixtures("exact")
def test_an_edit_gives_the_target_value(fine, tokenizer):
    method, site = editor(), edit_site(fine, 1)
    targets = method.optimize_targets(fine, tokenizer, requests(1), [1])
    (delta,) = method.write(fine, tokenizer, [targets], [1])
    key = method.written_key(targets.keys)[0]
    wanted = (targets.before + targets.delta)[0]
    assert targets.delta.abs().max() > 1e-6
    parts = site.parts or [
        site.name
    ]  # of experts side by side, those that the subject's last token is routed to are edited
    assert set(delta.updates) <= set(parts)
    keys = dict(zip(parts, key.chunk(len(parts)), strict=True))
    added = sum(update.matrix @ keys[name] for name, update in delta.updates.items())
    torch.testing.assert_close(site.values(key) + added, wanted)
    plain = fine(ids()).logits
    with delta.attached(fine):
        attached = fine(ids()).logits
    with delta.applied(fine):
        torch.testing.assert_close(attached, fine(ids()).logits)
    assert (attached - plain).abs().max() > 0


@EDITED_FAMILY
@pytest.mark.usefixtures("exact")
def test_a_window_is_written_as_by_whole_passes(fine, tokenizer, monkeypatch):
    method = MEMIT(window=3, moment_weight=2.0, second_moment="identity", **SEARCH)
    layers = list(range(len(blocks(fine))))[-3:]
    targets = method.optimize_targets(fine, tokenizer, requests(2), layers)
    (kept,) = method.write(fine, tokenizer, [targets], layers)
    monkeypatch.setattr(multi_layer, "MOST_KEPT", 0)
    (whole,) = method.write(fine, tokenizer, [targets], layers)
    assert kept.updates.keys() == whole.updates.keys()
    for name, update in kept.updates.items():
        torch.testing.assert_close(update.matrix, whole.updates[name].matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", EDITED)
@pytest.mark.usefixtures("exact")
def test_a_change_wanted_of_the_stream_arrives_there(family):
    alone = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}  # else something comes after the MLP
    model = tiny_model(family, torch.float64, **(alone if family == "gemma4_text" else {}))
    site, block = edit_site(model, 1), blocks(model)[1]
    if site.norm is not None:
        site.weight.mul_(100)  # the norm's epsilon is nothing beside such outputs
    gate = [] if site.gate is None else [site.gate]
    inputs: list[torch.Tensor] = []  # of the norm behind
    norm = [] if site.norm is None else [site.norm]
    with (
        inputs_seen(norm, lambda _, seen: inputs.append(seen)),
        whole_outputs([site.module]) as outputs,
        whole_outputs(gate) as gates,
        whole_outputs([block]) as streams,
    ):
        model(ids())
        entering = (inputs or outputs)[0]
        change = 1e-5 * torch.randn_like(entering)
        # an RMS norm takes off what goes along its input
        lost = entering * site.before_norm(entering, torch.ones_like(change), *gates)
        change -= (change * lost).sum(-1, keepdim=True) / lost.square().sum(-1, keepdim=True).clamp_min(1e-30) * lost
        written = site.before_norm(entering, change, *gates)
        with replaced_output(site.module, lambda output: output + written.view_as(output)):
            model(ids())
    torch.testing.assert_close((streams[1] - streams[0]).view_as(change), change, rtol=1e-3, atol=1e-8)


MULTIPLIED = {
    "granite": {"residual_multiplier": 0.25},
    "falcon_h1": {"mlp_multipliers": [0.88, 0.59]},
    "qwen2_moe": {},
    "qwen3_next": {},
}
"""Families that write a multiple of the MLP's output into the stream, the last two one that differs from token to token."""


@pytest.mark.parametrize("family", [*MULTIPLIED, "afmoe", "olmo2"])
@pytest.mark.usefixtures("exact")
def test_a_forecast_in_the_stream_is_that_of_autograd(family, tokenizer):
    model, data = tiny_model(family, torch.float64, **MULTIPLIED.get(family, {})), requests(1)
    method = MEMIT(window=2, moment_weight=2.0, second_moment="identity", **SEARCH)
    expected = forecast_by_hand(model, method, tokenizer, data[0])
    found = forecast_rows(model, method, encode_rows(tokenizer, data, [[]]), 1)
    assert relative_error(found.gain, expected[:, 3:]) < EXACT


@pytest.mark.parametrize("family", MULTIPLIED)
@pytest.mark.usefixtures("exact")
def test_a_residual_multiplier_is_made_up_for(family, tokenizer):
    """MEMIT's target is reached all the same."""
    model = tiny_model(family, torch.float64, **MULTIPLIED[family])
    method = MEMIT(window=1, moment_weight=1e-9, second_moment="identity", **{**SEARCH, "contexts_each": 0})
    targets = method.optimize_targets(model, tokenizer, requests(1), [1])
    (delta,) = method.write(model, tokenizer, [targets], [1])
    batch = encode_answers(tokenizer, [requests(1)[0].prompt], ["Rome"], [requests(1)[0].anchor_end])
    with delta.attached(model), captured_outputs([blocks(model)[1]], batch.subject) as outputs:
        model(input_ids=batch.input_ids)
    torch.testing.assert_close(outputs[0], targets.before + targets.delta, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", EDITED)
def test_an_adapter_there_and_back(family, tmp_path):
    model = tiny_model(family)
    site = edit_site(model, 1)
    generator = torch.Generator().manual_seed(0)
    b, a = (torch.randn(*shape, generator=generator) for shape in ((site.out_features, 2), (2, site.in_features)))
    delta = WeightDelta.at(site, LowRankUpdate(b, a))
    delta.save_pretrained(tmp_path / "adapter", model, "base")
    plain = model(ids()).logits
    with delta.applied(model):
        edited = model(ids()).logits
    again = WeightDelta.load(tmp_path / "adapter", model)
    assert list(again.updates) == list(delta.updates)
    for name in delta.updates:
        torch.testing.assert_close(again.matrix(name), delta.matrix(name))
    adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
    torch.testing.assert_close(adapted(ids()).logits, edited, rtol=1e-4, atol=1e-4)
    assert (edited - plain).abs().max() > 1e-3
    torch.testing.assert_close(adapted.unload()(ids()).logits, plain, rtol=0, atol=0)


class Host(L.LightningModule):
    """Trains a language model, and knows nothing of us."""

    def __init__(self, llm) -> None:
        super().__init__()
        self.llm = llm.requires_grad_(True)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.llm(input_ids=batch, labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("family", SCORED)
def test_a_host_trains_as_if_unwatched(family, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("lga_lightning.callbacks.layer_attribution.leave_attribution", lambda *_: None)  # pictures
    host, alone = (Host(tiny_model(family)) for _ in range(2))
    watch = LayerAttribution(requests(2), model="llm", tokenizer=tokenizer, verbose=False)
    for module, callbacks in ((host, [watch]), (alone, [])):
        trainer = L.Trainer(
            max_steps=1,
            accelerator="cpu",
            callbacks=callbacks,
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(ids(2), batch_size=2))
    assert watch.result is not None
    assert watch.result.num_requests == 2
    assert torch.tensor(watch.result.choice.scores).isfinite().all()
    assert len(watch.result.choice.scores) == len(blocks(host.llm))
    for ours, theirs in zip(host.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.llm.modules())


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_refused_is_refused_in_words(family):
    with pytest.raises(ModelError, match=r"model type|residual streams"):
        edit_site(tiny_model(family), 0)


def test_experts_that_are_normalised_twice_are_refused_where_that_matters(tokenizer):
    experts = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 20}
    model, data = tiny_model("gemma4_text", enable_moe_block=True, **experts), requests(2)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj gives is normalised twice"):
        EditForecast().score(model, tokenizer, data)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj gives is normalised twice"):
        MEMIT(second_moment="identity", **SEARCH).compute(model, tokenizer, data, 1)
    assert RROME(second_moment="identity", **SEARCH).compute(model, tokenizer, data, 1).ranks  # which does not


@pytest.mark.parametrize("family", NOT_EDITED)
def test_what_keeps_no_cache_is_not_edited(family, tokenizer):
    with pytest.raises(ModelError, match="gives no cache of keys and values"):
        editor().compute(tiny_model(family), tokenizer, requests(1), 1)


@pytest.mark.parametrize("family", [*SCORED, *REFUSED])
def test_the_page_has_what_is_so(family):
    assert row(family, tiny_model(family)) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_no_other_family():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(SCORED) + len(REFUSED)
