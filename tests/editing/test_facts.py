"""Which columns of an edit are whose, and edits without some of their facts: by the edits that never had them."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from lga_lightning.data.loading import BUNDLED
from lga_lightning.editing import FTM, MEMIT, RROME, AlphaEdit, CrispEdit, NormGuard, UltraEdit, WeightDelta
from lga_lightning.editing.facts_file import facts_from_json, facts_to_json, load_facts
from lga_lightning.editing.guarded import Guarded
from lga_lightning.editing.redo import method_of, redo_without
from lga_lightning.editing.session import EditSession
from lga_lightning.exceptions import DataError, SettingError
from tests.editing.helpers import ids, method_for
from tests.helpers.models import requests, tiny_model

QUICK = {"steps": 3, "context_lengths": (3,), "contexts_each": 1, "second_moment": "identity"}


def rrome() -> RROME:
    return RROME(**QUICK)


def facts_of(delta: WeightDelta) -> list[str]:
    return [name for name, _, _ in delta.facts]


def in_a_row(method, model, tokenizer, groups, layers=1) -> WeightDelta:
    session = EditSession(method, model, tokenizer, layers)
    for group in groups:
        session.edit(group)
    return session.delta


def assert_same(delta: WeightDelta, other: WeightDelta, tolerance: float = 1e-5) -> None:
    assert list(delta.updates) == list(other.updates)
    for name in delta.updates:
        torch.testing.assert_close(delta.matrix(name), other.matrix(name), rtol=tolerance, atol=tolerance)
    assert delta.ranks == other.ranks
    assert delta.facts == other.facts


def test_of_facts_written_in_turn_the_last_can_go(llama, tokenizer):
    data = requests(4)
    delta = rrome().compute(llama, tokenizer, data, 1)
    names = facts_of(delta)
    assert list(delta.facts.exact()) == [False, False, False, True]
    assert_same(delta.without(names[2:]), rrome().compute(llama, tokenizer, data[:2], 1))
    with pytest.raises(SettingError, match="3 of the facts that stay were solved for together"):
        delta.without(names[:1])
    several = rrome().compute(llama, tokenizer, data[:2], [1, 2])  # a later block's targets look at all facts
    assert list(several.facts.exact()) == [False, False]


def test_facts_solved_for_together_stay_together(llama, tokenizer):
    data, method = requests(6), method_for(MEMIT, llama)
    delta = in_a_row(method, llama, tokenizer, [data[:2], data[2:4], data[4:]], [0, 1])
    names = facts_of(delta)
    assert not any(delta.facts.exact())
    for chosen, reason in (
        (names[4:5], "1 of the facts that stay were solved"),
        (names[:2], "4 .* with them in place"),
    ):
        with pytest.raises(SettingError, match=reason):
            delta.without(chosen)
    assert_same(delta.without(names[2:]), in_a_row(method, llama, tokenizer, [data[:2]], [0, 1]))


def test_edits_made_apart_come_apart(llama, tokenizer):
    one, two, three = rrome().compute_each(llama, tokenizer, requests(3), 1)
    joined = one + two.then(three)
    names = facts_of(joined)
    assert list(joined.facts.exact()) == [True, False, True]
    assert_same(joined.without(names[:1]), two.then(three))
    assert_same(joined.without(names[1:]), one)
    with pytest.raises(DataError, match="no fact nonsense in this edit"):
        joined.without(["nonsense"])
    with pytest.raises(DataError, match="No fact would be left"):
        joined.without(names)
    assert facts_of(one + one) == [names[0], f"{names[0]}-2"]


def test_what_is_folded_has_no_columns(llama, tokenizer):
    data = requests(3)
    folded, _ = rrome().compute(llama, tokenizer, data, 1).low_rank(2)
    dense = FTM(steps=2).compute(llama, tokenizer, data, 1)
    many = in_a_row(rrome(), llama, tokenizer, [requests(8)[:4]] * 7)  # more facts than the matrix has rows
    for delta in (folded, dense, many):
        assert not any(delta.facts.exact())
        with pytest.raises(SettingError, match="folded into one with that of others"):
            delta.without(facts_of(delta)[-1:])


def test_edited_again_without(llama, tokenizer):
    data = requests(5)
    delta = in_a_row(rrome(), llama, tokenizer, [data[:2], data[2:3], data[3:]])
    names = facts_of(delta)
    without = redo_without(delta, names[2:4], llama, tokenizer)
    assert_same(without, in_a_row(rrome(), llama, tokenizer, [data[:2], data[4:]]), 1e-4)
    batch = method_for(MEMIT, llama, second_moment="identity").compute(llama, tokenizer, data, [0, 1])
    again = redo_without(batch, facts_of(batch)[1:2], llama, tokenizer)
    expected = method_for(MEMIT, llama, second_moment="identity").compute(llama, tokenizer, data[:1] + data[2:], [0, 1])
    assert_same(again, expected, 1e-4)


def test_what_cannot_be_edited_again_is_refused(llama, tokenizer):
    guarded = Guarded(rrome(), [NormGuard(0.05)]).compute(llama, tokenizer, requests(2), 1)
    with pytest.raises(SettingError, match="R-ROME with NormGuard, which cannot be set up again"):
        redo_without(guarded, facts_of(guarded)[:1], llama, tokenizer)
    history = RROME(**QUICK, history=True)
    delta = in_a_row(history, llama, tokenizer, [[one] for one in requests(3)])
    with pytest.raises(SettingError, match="which an adapter does not hold"):
        redo_without(delta, facts_of(delta)[1:2], llama, tokenizer)


@pytest.mark.parametrize("kind", [MEMIT, AlphaEdit, FTM])
def test_a_method_is_set_up_by_its_settings(kind, llama):
    method = method_for(kind, llama)
    settings = json.loads(json.dumps(method.settings(llama)))
    again = method_of(settings, llama)
    assert type(again) is kind
    assert json.loads(json.dumps(again.settings(llama))) == settings


def test_on_disk(llama, tokenizer, tmp_path):
    delta = in_a_row(rrome(), llama, tokenizer, [requests(2), requests(3)[2:]])
    delta.save_pretrained(tmp_path / "a", llama)
    content = json.loads((tmp_path / "a" / "facts.json").read_text())
    module = next(iter(delta.updates))
    assert [entry["columns"][module] for entry in content["facts"]] == [[0, 1], [1, 2], [2, 3]]
    assert [entry["exact"] for entry in content["facts"]] == [False, False, True]
    again = WeightDelta.load(tmp_path / "a", llama)
    assert_same(again, delta)
    again.without(facts_of(again)[2:]).save_pretrained(tmp_path / "b", llama)
    adapted = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "b")
    with in_a_row(rrome(), llama, tokenizer, [requests(2)]).attached(llama):
        expected = llama(input_ids=ids()).logits
    torch.testing.assert_close(adapted(input_ids=ids()).logits, expected, rtol=1e-4, atol=1e-4)
    for wrong in ({"version": 2}, {"groups": []}, {"facts": [{}]}):
        (tmp_path / "a" / "facts.json").write_text(json.dumps(content | wrong))
        with pytest.raises(DataError, match="not a record of facts, or it is broken"):
            load_facts(tmp_path / "a")


def test_a_session_goes_on_with_its_facts(llama, tokenizer):
    data, session = requests(3), EditSession(rrome(), llama, tokenizer, 1)
    session.edit(data[:2])
    other = EditSession(rrome(), llama, tokenizer, 1)
    other.load_state_dict(session.state_dict(), data[:2])
    for each in (session, other):
        each.edit(data[2:])
    assert_same(other.delta, session.delta)
    assert facts_from_json(json.loads(json.dumps(facts_to_json(other.delta.facts)))) == session.delta.facts


def test_settings_that_were_recorded_before_there_were_more_are_enough(llama):
    settings = UltraEdit(warmup=0, ridge=3.0).settings(llama)
    del settings["warmup_facts"]
    assert method_of(settings, llama).ridge == 3.0
    with pytest.raises(SettingError, match="cannot be set up again"):
        method_of(settings | {"a setting of another version": 1}, llama)


@pytest.mark.parametrize(("kind", "setting"), [(MEMIT, "second_moment"), (CrispEdit, "curvature_text")])
def test_the_text_of_moments_is_the_one_that_was_there(kind, setting, llama, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Rome is in Italy.", encoding="utf-8")
    settings = kind(**{setting: str(path)}).settings(llama)
    assert method_of(settings, llama).settings(llama) == settings
    path.write_text("Rome is in Spain.", encoding="utf-8")
    again = kind(**{setting: str(path)}).settings(llama)
    assert [name for name in again if again[name] != settings[name]] == [f"{setting}_hash"]
    with pytest.raises(SettingError, match=rf"`{setting}` '.*mine\.txt', and there is something else by now"):
        method_of(settings, llama)
    for source in ("sampled", "hub:owner/name"):  # a commit the Hub alone could tell
        assert f"{setting}_hash" not in kind(**{setting: source}).settings(llama)


def test_the_facts_of_a_warm_up_are_those_that_were_there(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundled = UltraEdit(warmup=2).settings(llama)
    rows = BUNDLED.read_text(encoding="utf-8").splitlines()[:4]
    path = tmp_path / "elsewhere" / "mine.jsonl"
    path.parent.mkdir()
    for file, content in ((path, rows[:2]), (tmp_path / "mine.jsonl", rows[2:]), (tmp_path / "bundled facts", rows)):
        file.write_text("\n".join(content), encoding="utf-8")
    assert method_of(bundled, llama).warmup_facts is None
    settings = UltraEdit(warmup=2, warmup_facts=str(path)).settings(llama)
    assert method_of(settings, llama).warmup_facts == str(path)
    without = {key: value for key, value in settings.items() if key != "warmup_facts_hash"}
    with pytest.raises(SettingError, match="cannot be set up again"):  # as adapters of before have it
        method_of(without | {"warmup_facts": "mine.jsonl"}, llama)
    path.write_text("\n".join(rows[1:3]), encoding="utf-8")
    with pytest.raises(
        SettingError, match=r"`warmup_facts` '.*mine\.jsonl', and there is something else by now\..*`lga facts`"
    ):
        method_of(settings, llama)
    path.unlink()
    with pytest.raises(SettingError, match=r"not here by now\. The file '.*mine\.jsonl' does not exist.*`lga facts`"):
        method_of(settings, llama)
