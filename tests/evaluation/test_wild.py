"""Free decoding to a natural end: against one prompt at a time with the edit in the weights, and how prompts are asked."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from itertools import chain

import pytest
import torch

from lga_lightning.editing.attaching import attached
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import evaluate
from lga_lightning.evaluation.judge import Judgement
from lga_lightning.evaluation.prompts import EvalPrompt
from lga_lightning.evaluation.protocols import NEUTRAL_TEXT, PROTOCOLS
from lga_lightning.evaluation.responses import Response
from lga_lightning.evaluation.results import EvalResult, compare_responses
from lga_lightning.evaluation.summary import summarise
from lga_lightning.evaluation.tally import count_cut, how_measured
from lga_lightning.exceptions import SettingError
from lga_lightning.metrics import contains, exact_match, normalised
from lga_lightning.models.cached_prompts import CachedPrompts
from lga_lightning.models.chat import ChatTokenizer, as_asked, end_tokens
from tests.helpers.edits import random_edits
from tests.helpers.generation import freely
from tests.helpers.models import requests, tiny_model, tiny_tokenizer
from tests.helpers.tokenizers import LINES

LIMIT = 16  # what the longest accepted answer of the requests needs
CONTEXT = "People say."
USUAL = {name: protocol.max_new_tokens for name, protocol in PROTOCOLS.items()}  # before a test shortens them
WILD = EvaluationConfig(protocol="wild", max_new_tokens=LIMIT, context=CONTEXT)
# turns that end with a token of their own, as ChatML's
TURNS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def ending(family: str, tokenizer, **options):
    """A model that says some end-of-text token now and then: of those that it likes to say, a few are made to be one."""
    model = tiny_model(family, torch.float64, **options)
    prompts = [prompt.prompt for request in requests(4) for prompt in WILD.prompts(request)]
    with torch.no_grad():
        said = chain(*(freely(model, tokenizer, prompt, LIMIT, set())[0] for prompt in dict.fromkeys(prompts)))
    tokens = sorted(set(said))
    model.generation_config.eos_token_id = [2, *tokens[::5]]
    return model


def families(test):
    """Families whose caches differ, with edits of a row, of a matrix and of a rank that is attached at once."""
    cases = [("llama", 1), ("llama", 0), ("llama", 20), ("gpt2", 1), ("gemma3_text", 2)]
    return pytest.mark.parametrize(("family_name", "rank"), cases)(test)


@pytest.mark.usefixtures("exact")
@families
def test_what_is_said_equals_a_plain_loop_with_the_edit_in_the_weights(family_name, rank, tokenizer):
    options = {"n_positions": 128} if family_name == "gpt2" else {}
    model, data = ending(family_name, tokenizer, **options), requests(4)
    deltas, ends = random_edits(model, 4, rank=rank), set(model.generation_config.eos_token_id)
    results = evaluate(model, tokenizer, data, deltas, WILD)
    forced = evaluate(model, tokenizer, data, deltas, EvaluationConfig(generate=False))
    lengths, changed = set(), 0
    for request, delta, of_request, teacher in zip(data, deltas, results, forced, strict=True):
        prompts = WILD.prompts(request)
        sides = []
        with torch.no_grad():
            for edited in (False, True):
                with delta.applied(model) if edited else nullcontext():
                    texts = [(p.prompt, f"{CONTEXT}\n\n{p.prompt}") for p in prompts]
                    sides.append([[freely(model, tokenizer, t, LIMIT, ends) for t in pair] for pair in texts])
        for prompt, result, quick, *said in zip(prompts, of_request, teacher, *sides, strict=True):
            words = [
                [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens, _ in side] for side in said
            ]
            assert result.said == (words[0][0], words[1][0])
            assert result.said_in_context == (words[0][1], words[1][1])
            assert result.asked == prompt.prompt
            assert result.scores["ended"] == tuple(float(all(ended for _, ended in side)) for side in said)
            for name, place in (("", 0), ("_in_context", 1)):
                expected = tuple(float(contains(side[place], prompt.answers)) for side in words)
                assert result.scores[f"contained{name}"] == expected
                exact = tuple(float(exact_match(side[place], prompt.answers)) for side in words)
                same = (1.0, float(normalised(words[0][place]) == normalised(words[1][place])))
                assert result.scores[f"generated{name}"] == (same if prompt.family == "locality" else exact)
            for name in ("token", "nll"):  # the number that it corrects is what it is without it
                assert result.scores[name] == pytest.approx(quick.scores[name], abs=1e-9)
            lengths |= {len(tokens) for side in said for tokens, _ in side}
            changed += result.said[0] != result.said[1]
    assert len(lengths) > 3  # some end early, some late
    assert changed > 3


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family_name", ["llama", "gpt2", "gemma3_text"])
def test_token_by_token_and_a_row_that_has_ended_costs_nothing(family_name, tokenizer):
    model, data = ending(family_name, tokenizer), requests(4)
    prompts = [p.prompt for request in data for p in WILD.prompts(request)]
    deltas, ends = random_edits(model, 3), set(model.generation_config.eos_token_id)
    which, runs = torch.arange(len(prompts)) % 3, []

    @contextmanager
    def attach(rows):
        runs.append(rows.tolist())
        with attached(model, deltas, which[rows]):
            yield

    found = CachedPrompts(model, tokenizer, prompts, attach).to_their_ends(LIMIT)
    for prompt, number, one in zip(prompts, which.tolist(), found, strict=True):
        with torch.no_grad(), deltas[number].applied(model):
            assert (one.tokens, one.ended) == freely(model, tokenizer, prompt, LIMIT, ends)
    assert {one.ended for one in found} == {True, False}
    # a pass for the prompt; then one for every token that is followed by another, or by an end
    steps = [sum(row in rows for rows in runs) for row in range(len(prompts))]
    assert steps == [1 + len(one.tokens) - (not one.ended) for one in found]
    assert len({len(rows) for rows in runs}) > 2


@pytest.mark.usefixtures("exact")
def test_the_size_of_batches_does_not_matter(tokenizer):
    model, data = ending("llama", tokenizer), requests(5)
    deltas = random_edits(model, 5)
    tables = [
        evaluate(model, tokenizer, data, deltas, EvaluationConfig(**{**vars(WILD), "max_rows": rows}))
        for rows in (64, 5, 1)
    ]
    alone = [evaluate(model, tokenizer, [r], [d], WILD)[0] for r, d in zip(data, deltas, strict=True)]
    for table in (*tables[1:], alone):
        for first, second in zip(chain(*tables[0]), chain(*table), strict=True):
            assert (first.said, first.said_in_context) == (second.said, second.said_in_context)
            assert list(first.scores) == list(second.scores)
            for name, pair in first.scores.items():
                assert second.scores[name] == pytest.approx(pair, rel=1e-9)


def test_one_edit_of_all_requests_and_edits_of_their_own(tokenizer):
    model, data = ending("llama", tokenizer), requests(3)
    wide, narrow = random_edits(model, 1, rank=20) * 3, random_edits(model, 3)
    for deltas in (wide, [narrow[0]] * 3):
        results = evaluate(model, tokenizer, data, deltas, WILD)
        for request, delta, of_request in zip(data, deltas, results, strict=True):
            assert evaluate(model, tokenizer, [request], [delta], WILD)[0][0].said == of_request[0].said


def test_without_a_context_prompts_are_asked_once(llama, tokenizer):
    for context in ("", " \n"):
        config = EvaluationConfig(protocol="wild", max_new_tokens=3, context=context)
        for of_request in evaluate(llama, tokenizer, requests(2), random_edits(llama, 2), config):
            for result in of_request:
                assert result.said_in_context is None
                assert not any(name.endswith("in_context") for name in result.scores)
                assert {"generated", "contained", "ended", "token"} <= set(result.scores)


def chat_tokenizer(template: str):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def test_a_model_that_chats_is_asked_in_its_template():
    tokenizer = chat_tokenizer(TURNS)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    model = tiny_model("llama", torch.float64)
    # a base model with the template of its siblings: it ends texts, not turns
    assert as_asked(model, tokenizer) is tokenizer
    model.generation_config.eos_token_id = [2, end]
    chat = as_asked(model, tokenizer)
    assert isinstance(chat, ChatTokenizer)
    assert isinstance(as_asked(model, chat), ChatTokenizer)
    assert as_asked(model, chat, False) is as_asked(model, tokenizer, False) is tokenizer
    data, config = requests(2), EvaluationConfig(protocol="wild", max_new_tokens=LIMIT, context=CONTEXT)
    results = evaluate(model, tokenizer, data, random_edits(model, 2), config)
    already = evaluate(model, chat, data, random_edits(model, 2), config)
    for one, other in zip(chain(*results), chain(*already), strict=True):
        assert one.said == other.said
        assert one.asked == other.asked == f"<|user|>{one.prompt}<|end|>\n<|assistant|>"
        turn = tokenizer(f"<|user|>{CONTEXT}\n\n{one.prompt}<|end|>\n<|assistant|>", add_special_tokens=False)
        with torch.no_grad():
            tokens, _ = freely(model, tokenizer, turn["input_ids"], LIMIT, {2, end})
        assert one.said_in_context[0] == tokenizer.decode(tokens, skip_special_tokens=True).strip()
    plainly = evaluate(model, tokenizer, data, random_edits(model, 2), replace(config, chat=False))
    assert all(one.asked == one.prompt for one in chain(*plainly))
    model.generation_config.eos_token_id = 2
    told = evaluate(model, tokenizer, data, random_edits(model, 2), replace(config, chat=True))
    assert [one.said for one in chain(*told)] == [one.said for one in chain(*results)]
    # the teacher-forced number is that of the prompt as it was edited: plain
    forced = evaluate(model, tokenizer, data, random_edits(model, 2), EvaluationConfig(generate=False))
    assert [one.scores["nll"] for one in chain(*forced)] == [
        pytest.approx(one.scores["nll"]) for one in chain(*results)
    ]


def test_the_end_of_a_turn_ends_an_answer():
    tokenizer = chat_tokenizer(TURNS)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    chat, model = ChatTokenizer(tokenizer), tiny_model("llama")
    assert (chat.end_of_turn, end_tokens(model, chat), end_tokens(model, tokenizer)) == (end, {2, end}, {2})
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[end] = 1.0  # above or below zero: every other token is at zero
        model.lm_head.weight[end] *= model.model(torch.tensor([chat("Rome is")["input_ids"]]))[0][0, -1].sum().sign()
    (said,) = CachedPrompts(model, chat, ["Rome is"]).to_their_ends(5)
    assert (said.tokens, said.text, said.ended) == ([], "", True)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (LINES, 2),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_templates_of_other_kinds(template, end, llama):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    asked = as_asked(llama, tokenizer)
    assert isinstance(asked, ChatTokenizer) == (end is not None)
    if end is not None:
        assert asked.end_of_turn == end


@pytest.mark.parametrize(
    ("answers", "said", "exact", "within"),
    [
        (("Berlin",), "Berlin, Germany", 0, 1),
        (("Berlin",), "It is BERLIN!", 0, 1),
        (("Berlin",), "the Berlin.", 1, 1),
        (("Berlin",), "Berliners", 0, 0),
        (("Bonn", "West Berlin"), "in west-berlin", 0, 1),
        (("The Hague",), "Hague", 1, 1),
        (("St. Louis",), "It is St Louis. It has", 0, 1),
        (("United States", "USA"), "U.S.A.", 1, 1),
        (("東京",), "東京", 1, 1),
        (("Berlin",), "", 0, 0),
    ],
)
def test_matches_over_all_aliases(answers, said, exact, within):
    prompt = EvalPrompt("rewrite", "?", answers)
    after = Response(text=said, text_in_context=said, ended=True)
    scores = compare_responses(prompt, Response(text="", text_in_context="", ended=False), after).scores
    assert scores["generated"] == scores["generated_in_context"] == (0, exact)
    assert scores["contained"] == scores["contained_in_context"] == (0, within)
    assert scores["ended"] == (0, 1)


def test_locality_counts_right_answers_before_and_after():
    prompt = EvalPrompt("locality.a", "?", ("Oslo",))
    scores = compare_responses(prompt, Response(text="Oslo, Norway"), Response(text="Rome")).scores
    assert (scores["generated"], scores["contained"], "begins" in scores) == ((1, 0), (1, 0), False)
    scores = compare_responses(prompt, Response(text="Oslo, Norway"), Response(text="in Oslo")).scores
    assert (scores["generated"], scores["contained"]) == ((1, 0), (1, 1))


def test_protocols_say_how_the_model_was_let_speak(llama, tokenizer):
    results = evaluate(llama, tokenizer, requests(2), random_edits(llama, 2), WILD)
    metrics = summarise(results, WILD.limit, resamples=20, protocol="wild")
    assert list(metrics["rewrite"])[6:] == [
        "generated",
        "begins",
        "contained",
        "generated_in_context",
        "contained_in_context",
        "ended",
    ]
    for name in ("generated", "contained"):
        plain, within = metrics["rewrite"][name]["protocol"], metrics["rewrite"][f"{name}_in_context"]["protocol"]
        assert (
            f"to its own end (an end-of-text token, or the end of its turn in a chat), cut at {LIMIT} tokens" in plain
        )
        assert within == f"with a neutral text before the prompt, {plain}"
    assert "teacher-forced" in metrics["rewrite"]["protocol"]
    measured = how_measured(WILD, results, in_chat=True)
    assert measured == {
        "protocol": "wild",
        "max_new_tokens": LIMIT,
        "context": CONTEXT,
        "in_chat": True,
        "cut": count_cut(list(chain(*results))),
    }
    assert measured["cut"]["prompts"] == sum(map(len, results))
    assert how_measured(EvaluationConfig(), [], False) == {
        "protocol": "completion",
        "max_new_tokens": EvaluationConfig().limit,
    }


def test_answers_that_were_cut_are_counted():
    results = [EvalResult("rewrite", "?", ("!",), {"ended": pair}) for pair in ((1, 0), (0, 0), (1, 1))]
    assert count_cut([*results, EvalResult("perplexity", "?", (), {})]) == {"prompts": 3, "before": 1, "after": 2}


def test_a_record_round_trips():
    judged = (Judgement("p", "yes", True), Judgement("p", None, None, "gone"))
    result = EvalResult("rewrite", "Zoë", ("a",), {"token": (0.1, 1 / 3)}, ("a", "b"), ("c", "d"), "<Zoë>", judged)
    assert EvalResult.of(json.loads(json.dumps(asdict(result)))) == result


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"protocol": "tame"}, r"`protocol` must be one of \['completion', 'wild'\], got 'tame'"),
        ({"protocol": "wild", "generate": False}, "The protocol 'wild' scores what the model says"),
        ({"judge": object(), "generate": False}, "A judge judges what the model says"),
        ({"protocol": "wild", "max_new_tokens": 0}, "`max_new_tokens` must be at least 1"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(SettingError, match=said):
        EvaluationConfig(**settings)


def test_limits_and_looks_in_between():
    assert USUAL == {"completion": 50, "wild": 200}
    assert (EvaluationConfig(protocol="wild").limit, WILD.limit) == (200, LIMIT)
    assert EvaluationConfig().limit == PROTOCOLS["completion"].max_new_tokens
    assert WILD.teacher_forced().settings() == {"generate": False}
    assert EvaluationConfig(protocol="wild").context == NEUTRAL_TEXT
