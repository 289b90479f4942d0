"""Which routed experts an edit of the golden layer would change: against plain loops over experts, and in what `fit` leaves."""

from __future__ import annotations

import pytest
import torch

from lga_lightning import find_golden_layer
from lga_lightning.editing import RROME
from lga_lightning.locators import EditForecast
from lga_lightning.locators.expert_shares import ExpertShare, expert_shares
from lga_lightning.models import structure as structures
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.structure import RoutedExperts, register_structure
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from lga_lightning.results.attribution import LocatorResult
from tests.families.test_experts import by_hand, calls
from tests.helpers.data import rows, write_rows
from tests.helpers.families import ROUTED
from tests.helpers.models import requests, tiny_model
from tests.helpers.runs import trainer
from tests.helpers.tokenizers import subject_last_token

EDITOR = RROME(second_moment="identity", steps=4, context_lengths=())


@pytest.mark.parametrize("family", ROUTED)
def test_shares_are_those_of_the_edit(family, tokenizer):
    model, asked = tiny_model(family, torch.float64, attention_dropout=0.5).train(), requests(5)
    found = expert_shares(model, tokenizer, asked, 1, batch_size=2)
    assert all(module.training for module in model.modules())
    model.eval()
    experts = edit_site(model, 1).module.experts
    shares, counts = torch.zeros(2, experts.num_experts, dtype=torch.float64)
    for request in asked:
        token = subject_last_token(tokenizer, request.prompt, request.subject)
        seen = calls(model, torch.tensor([tokenizer(request.prompt)["input_ids"]]))
        sizes = {e: float(key @ key) for (t, e), key in by_hand(experts, *seen[1][:3]).items() if t == token}
        for expert, size in sizes.items():
            shares[expert] += size / sum(sizes.values()) / len(asked)
            counts[expert] += 1
    assert [one.share for one in found] == pytest.approx(shares[shares > 0].sort(descending=True).values.tolist())
    assert {one.expert: one.requests for one in found} == {e: int(n) for e, n in enumerate(counts) if n}
    assert sum(one.share for one in found) == pytest.approx(1)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_edit_changes_the_experts_by_their_shares(tokenizer):
    model, asked = tiny_model("qwen3_moe"), requests(1)
    delta = EDITOR.compute(model, tokenizer, asked, 1)
    sizes = {int(name.split(".")[-2]): float(update.matrix.square().sum()) for name, update in delta.updates.items()}
    found = {one.expert: one.share for one in expert_shares(model, tokenizer, asked, 1)}
    assert found == pytest.approx({e: size / sum(sizes.values()) for e, size in sizes.items()}, rel=1e-4)


def test_fit_leaves_them(tmp_path, tokenizer, capsys):
    model = tiny_model("qwen3_moe")
    data = EditDataModule(str(write_rows(tmp_path / "requests.jsonl", rows(6))), batch_size=4)
    made = LGAModule("tiny", locator=EditForecast(EDITOR), editor=EDITOR, model=model, tokenizer=tokenizer)
    trainer(tmp_path).fit(made, datamodule=data)
    result = LocatorResult.load(tmp_path / "attribution.json")
    assert result.experts == expert_shares(model, tokenizer, made.data.requests, result.golden_layer)
    first = result.experts[0]
    said = (
        f"Of an edit of layer {result.golden_layer}, the routed experts would carry: {first.expert} {first.share:.0%}"
    )
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "report.html").read_text()


def test_where_the_shared_expert_is_edited(tokenizer, monkeypatch):
    monkeypatch.setattr(structures, "_REGISTERED", {})
    model = tiny_model("qwen2_moe")
    shared = find_golden_layer(model, tokenizer, requests(3), EditForecast(EDITOR), editor=EDITOR)
    assert shared.experts == []
    register_structure("qwen2_moe", RoutedExperts())
    routed = find_golden_layer(model, tokenizer, requests(3), EditForecast(EDITOR), editor=EDITOR)
    assert all(isinstance(one, ExpertShare) and 1 <= one.requests <= 3 for one in routed.experts)


def test_a_model_without_experts_has_none(llama, tokenizer):
    assert expert_shares(llama, tokenizer, requests(2), 1) is None
