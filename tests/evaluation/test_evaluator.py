"""Responses to prompts, in batches with an edit by row, against edited weights and one prompt at a time."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import chain

import pytest
import torch

from lga_lightning.data.corpus import read_passages
from lga_lightning.data.requests import Probe
from lga_lightning.editing import RROME
from lga_lightning.editing.governor import Governor
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator, evaluate
from lga_lightning.evaluation.prompts import EvalPrompt
from lga_lightning.evaluation.responses import respond
from lga_lightning.evaluation.results import EvalResult, mean_scores
from lga_lightning.evaluation.session_watch import SessionWatch
from lga_lightning.evaluation.tally import count_edited_probes
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.metrics import begins_with, contains, exact_match, ngram_entropy, normalised
from lga_lightning.models.chat import ChatTokenizer
from lga_lightning.models.encoding import target_ids
from tests.helpers.cli import FAST_METHOD
from tests.helpers.edits import random_edits
from tests.helpers.generation import TOKENS, plain
from tests.helpers.models import requests, tiny_model, tiny_tokenizer
from tests.helpers.tokenizers import LINES

EXACT = {"rtol": 1e-9, "atol": 1e-9}
PASSAGES = ("The capital of France is Paris, and Rome is in Italy", "People say that the mother tongue of Einstein")
EVERYTHING = EvaluationConfig(max_new_tokens=TOKENS, fluency=True, passages=PASSAGES, max_rows=11)


def nll_of(model, tokenizer, prompt: str, answer: str) -> tuple[float, list[int], list[int]]:
    """One whole pass: the mean negative log-likelihood, the predictions and the answer's tokens."""
    ids, target = tokenizer(prompt)["input_ids"], tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()
    return loss, logits.argmax(-1).tolist(), target


def one_side(model, tokenizer, prompt: EvalPrompt) -> dict:
    """What a model makes of one prompt, plainly."""
    if prompt.group == "fluency":
        ids = tokenizer(prompt.prompt)["input_ids"]
        said = []
        while len(said) < 20 and (not said or said[-1] != 2):
            said.append(model(torch.tensor([ids + said])).logits[0, -1].argmax().item())
        return {"said": tokenizer.decode(said, skip_special_tokens=True).strip()}
    if prompt.group == "perplexity":
        ids = torch.tensor(tokenizer(prompt.prompt)["input_ids"])
        loss = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:])
        return {"nll": loss.item()}
    nll, predictions, labels = nll_of(model, tokenizer, prompt.prompt, prompt.answers[0])
    side = {"nll": nll, "predictions": predictions, "labels": labels, "said": plain(model, tokenizer, prompt.prompt)}
    if prompt.alternative is not None:
        side["alternative"] = nll_of(model, tokenizer, prompt.prompt, prompt.alternative)[0]
    return side


def expected_scores(prompt: EvalPrompt, before: dict, after: dict) -> dict[str, tuple[float, float]]:
    """The definitions, written out."""
    if prompt.group == "fluency":
        return {"fluency": (ngram_entropy(before["said"]), ngram_entropy(after["said"]))}
    scores = {"nll": (before["nll"], after["nll"])}
    if prompt.group == "perplexity":
        return scores
    pairs = list(zip(before["predictions"], after["predictions"], before["labels"], strict=True))
    if prompt.group.startswith("locality"):
        scores["token"] = (1.0, sum(b == a for b, a, _ in pairs) / len(pairs))
        scores["generated"] = (1.0, float(normalised(before["said"]) == normalised(after["said"])))
    else:
        scores["token"] = tuple(
            sum(side == label for *_, label, side in s) / len(pairs)
            for s in ([(label, b) for b, _, label in pairs], [(label, a) for _, a, label in pairs])
        )
        scores["generated"] = tuple(float(exact_match(side["said"], prompt.answers)) for side in (before, after))
        scores["begins"] = tuple(float(begins_with(side["said"], prompt.answers)) for side in (before, after))
    scores["contained"] = tuple(float(contains(side["said"], prompt.answers)) for side in (before, after))
    if prompt.alternative is not None:
        scores["success"] = tuple(float(side["nll"] < side["alternative"]) for side in (before, after))
        scores["magnitude"] = tuple(math.exp(-side["nll"]) - math.exp(-side["alternative"]) for side in (before, after))
    return scores


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("family_name", "rank", "shared"),
    [("llama", 1, False), ("llama", 0, False), ("llama", 20, True), ("gpt2", 1, True), ("gemma3_text", 2, False)],
)
def test_everything_equals_edited_weights_and_plain_passes(family_name, rank, shared, tokenizer, monkeypatch):
    monkeypatch.setattr("lga_lightning.evaluation.responses.FLUENCY_TOKENS", 20)
    # ranks beyond WIDEST are attached edit by edit
    options = {"max_position_embeddings": 96} if family_name != "gpt2" else {"n_positions": 96}
    model, data = tiny_model(family_name, torch.float64, **options), requests(3)
    deltas = random_edits(model, 1, rank=rank) * 3 if shared else random_edits(model, 3, rank=rank)
    results = evaluate(model, tokenizer, data, deltas, EVERYTHING)
    changed = 0
    with torch.no_grad():
        for request, delta, of_request in zip(data, deltas, results, strict=True):
            prompts = EVERYTHING.prompts(request)
            assert [result.group for result in of_request] == [prompt.group for prompt in prompts]
            before = [one_side(model, tokenizer, prompt) for prompt in prompts]
            with delta.applied(model):
                after = [one_side(model, tokenizer, prompt) for prompt in prompts]
            for prompt, result, *sides in zip(prompts, of_request, before, after, strict=True):
                expected = expected_scores(prompt, *sides)
                assert set(result.scores) == set(expected)
                for metric, pair in expected.items():
                    assert result.scores[metric] == pytest.approx(pair, rel=1e-6, abs=1e-8), (prompt, metric)
                if result.said is not None:
                    assert result.said == tuple(side["said"] for side in sides)
                    changed += result.said[0] != result.said[1]
    assert changed > 5


def test_the_size_of_batches_does_not_matter(tokenizer):
    model, data = tiny_model("llama", torch.float64), requests(6)
    deltas = random_edits(model, 6)
    tables = []
    for rows in (64, 5, 1):
        results = evaluate(model, tokenizer, data, deltas, EvaluationConfig(max_new_tokens=8, max_rows=rows))
        tables.append(results)
    alone = [
        evaluate(model, tokenizer, [r], [d], EvaluationConfig(max_new_tokens=8))[0]
        for r, d in zip(data, deltas, strict=True)
    ]
    for table in (*tables[1:], alone):
        same(tables[0], table)


def same(one: list[list[EvalResult]], other: list[list[EvalResult]]) -> None:
    for first, second in zip(chain(*one), chain(*other), strict=True):
        assert (first.group, first.prompt, first.said) == (second.group, second.prompt, second.said)
        assert list(first.scores) == list(second.scores)
        for metric, pair in first.scores.items():
            assert second.scores[metric] == pytest.approx(pair, rel=1e-5, abs=1e-7)


def test_further_edits_run_the_edited_side_alone(tokenizer, monkeypatch):
    model, data = tiny_model("llama", torch.float64), requests(5)
    config = EvaluationConfig(max_new_tokens=4, passages=PASSAGES, max_rows=7)
    several = [
        random_edits(model, 5),
        random_edits(model, 5, layer=2),
        random_edits(model, 5, rank=0),  # wide
        [*random_edits(model, 3), *random_edits(model, 1, rank=20) * 2],
    ]
    rows: list[int] = []

    def counted(model, tokenizer, prompts, *args):
        rows.append(len(prompts))
        return respond(model, tokenizer, prompts, *args)

    monkeypatch.setattr("lga_lightning.evaluation.evaluator.respond", counted)
    asked = [prompt for request in data for prompt in config.prompts(request)]  # passages more than once
    for order in (several, several[::-1]):  # also: wide ones first
        evaluator = Evaluator(model, tokenizer, data, config)
        for call, deltas in enumerate(order):
            rows.clear()
            results = evaluator(deltas)
            assert sum(rows) == len(asked) + (0 if call else len({*asked}))
            same(results, evaluate(model, tokenizer, data, deltas, config))
    with pytest.raises(ValueError, match="an edit for each of the 5 requests, got 4"):
        evaluator(several[0][:4])


def test_what_the_unedited_model_responds_can_be_kept(tokenizer, monkeypatch):
    model, data = tiny_model("llama", torch.float64), requests(5)
    config = EvaluationConfig(max_new_tokens=4, passages=PASSAGES, max_rows=7)
    keeping, deltas = replace(config, unedited={}), random_edits(model, 5)
    rows: list[int] = []

    def counted(model, tokenizer, prompts, *args):
        rows.append(len(prompts))
        return respond(model, tokenizer, prompts, *args)

    monkeypatch.setattr("lga_lightning.evaluation.evaluator.respond", counted)
    evaluate(model, tokenizer, data[:3], deltas[:3], keeping)
    same(evaluate(model, tokenizer, data, deltas, keeping), evaluate(model, tokenizer, data, deltas, config))
    asked = [prompt for request in data for prompt in config.prompts(request)]
    assert keeping.unedited.keys() == {*asked}
    expected = evaluate(model, tokenizer, data, deltas[::-1], config)
    rows.clear()
    same(evaluate(model, tokenizer, data, deltas[::-1], keeping), expected)
    assert sum(rows) == len(asked)


def test_an_interrupted_call_can_be_made_again(tokenizer, monkeypatch):
    model, data = tiny_model("llama", torch.float64), requests(4)
    config, deltas = EvaluationConfig(generate=False, max_rows=7), random_edits(model, 4)
    evaluator, calls = Evaluator(model, tokenizer, data, config), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return respond(*args)

    monkeypatch.setattr("lga_lightning.evaluation.evaluator.respond", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluator(deltas)
    same(evaluator(deltas), evaluate(model, tokenizer, data, deltas, config))


def test_locality_probes_about_facts_of_the_same_edit_are_left_out(llama, tokenizer):
    first, *others = requests(3)
    data = [
        replace(first, locality={"a": (Probe(f" {others[0].prompt}\n", ("Italy",)), Probe("Oslo is", ("so",)))}),
        *others,
    ]
    session = EditSession(RROME(**FAST_METHOD), llama, tokenizer, 1)
    session.edit(data)
    config = EvaluationConfig(generate=False, unedited={})
    found = evaluate(llama, tokenizer, data[:2], [session.delta] * 2, config)  # whether or not the others are asked
    assert [result.prompt for result in found[0] if result.group == "locality.a"] == ["Oslo is"]
    assert len(found[1]) == len(config.prompts(data[1]))
    assert count_edited_probes(data[:2], found) == {"edited_probes": {"left_out": 1, "probes": 4}}
    alone = RROME(**FAST_METHOD).compute_each(llama, tokenizer, data, 1)
    each = evaluate(llama, tokenizer, data, alone, config)
    assert [len(of_request) for of_request in each] == [len(config.prompts(request)) for request in data]
    assert count_edited_probes(data, each) == {}
    watch = SessionWatch(Governor(locality=0.5), llama, tokenizer)
    bare = [replace(request, locality={}) for request in others]
    session = EditSession(RROME(**FAST_METHOD), llama, tokenizer, 1)
    session.edit([replace(first, locality={"a": (Probe(others[0].prompt, ("Italy",)),)}), *bare])
    assert watch.look(session).locality is None


def test_only_the_families_that_are_asked_for(llama, tokenizer):
    data, deltas = requests(2), random_edits(llama, 2)
    everything = evaluate(llama, tokenizer, data, deltas, EvaluationConfig(generate=False))
    config = EvaluationConfig(generate=False, families=("rewrite", "locality"))
    found = evaluate(llama, tokenizer, data, deltas, config)
    assert [[result.group for result in of_request] for of_request in found] == [
        ["rewrite", *["locality.neighborhood"] * 2]
    ] * 2
    same(found, [[one for one in r if one.group in ("rewrite", "locality.neighborhood")] for r in everything])
    assert evaluate(llama, tokenizer, data, deltas, EvaluationConfig(families=())) == [[], []]
    with pytest.raises(SettingError, match=r"`families` must be some of \['rewrite', .*\], got \['specificity'\]"):
        EvaluationConfig(families=("specificity",))


def test_in_a_chat_prompts_are_turns_and_plain_text_is_plain(llama):
    tokenizer, data = tiny_tokenizer(), requests(2)
    tokenizer.chat_template = LINES
    chat, deltas = ChatTokenizer(tokenizer), random_edits(llama, 2)
    plainly, in_chat = (
        evaluate(llama, t, data, deltas, EvaluationConfig(max_new_tokens=5, passages=PASSAGES))
        for t in (tokenizer, chat)
    )
    for request, one, other in zip(data, plainly, in_chat, strict=True):
        assert one[-1].group == "perplexity"
        assert other[-1].scores["nll"] == pytest.approx(one[-1].scores["nll"])
        ids, target = chat(request.prompt)["input_ids"], target_ids(chat, request.target_new)
        logits = llama(torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()
        assert other[0].scores["nll"][0] == pytest.approx(expected, rel=1e-4)
        assert other[0].scores["nll"][0] != pytest.approx(one[0].scores["nll"][0], rel=1e-4)


def test_token_scores_alone(llama, tokenizer):
    results = evaluate(llama, tokenizer, requests(5), random_edits(llama, 5), EvaluationConfig(generate=False))
    assert all(result.said is None and "generated" not in result.scores for result in chain(*results))
    scores = mean_scores(results, "portability.reasoning", "token")
    assert scores.shape == (5, 2)
    assert scores[::2].isnan().all()  # every other request has no portability


def test_means_go_over_prompts_then_kinds():
    def result(group: str, after: float) -> EvalResult:
        return EvalResult(group, "?", ("!",), {"token": (0.0, after)})

    of_request = [result("portability.a", 1.0), result("portability.a", 0.0), result("portability.b", 1.0)]
    means = mean_scores([of_request, []], "portability", "token")
    assert means[0].tolist() == [0.0, 0.75]
    assert means[1].isnan().all()
    assert mean_scores([of_request], "portability.a", "token").tolist() == [[0.0, 0.5]]


def test_a_record_round_trips():
    for said in (("a", "b"), None):
        result = EvalResult("rewrite", "Zoë", ("a", "b"), {"token": (0.1, 1 / 3), "nll": (1e-17, 3.0)}, said)
        assert EvalResult.of(json.loads(json.dumps(asdict(result)))) == result


def test_passages(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"word{number}\n" for number in range(250)), encoding="utf-8")
    first, second = read_passages(str(path))
    assert first.split()[0] == "word0"
    assert second.split()[-1] == "word199"
    assert read_passages(str(path), most=1) == (first,)
    path.write_text("too short", encoding="utf-8")
    with pytest.raises(DataError, match="at least 100 words"):
        read_passages(str(path))


@pytest.mark.parametrize("setting", ["max_new_tokens", "max_rows"])
def test_bad_settings(setting):
    with pytest.raises(SettingError, match=f"`{setting}` must be at least 1"):
        EvaluationConfig(**{setting: 0})
