"""Judges: what they are asked, how their replies are read, and what becomes of servers that fail."""

from __future__ import annotations

import pickle
from itertools import chain

import pytest
import torch

from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.evaluator import Evaluator, evaluate
from lga_lightning.evaluation.judge import Judge, Judgement, judge_prompt, parse_verdict
from lga_lightning.evaluation.judge_model import ModelJudge
from lga_lightning.evaluation.judge_server import ServerJudge
from lga_lightning.evaluation.judges import named_judge
from lga_lightning.evaluation.results import mean_scores
from lga_lightning.evaluation.tally import count_verdicts, how_measured
from lga_lightning.exceptions import JudgeError, ModelError, SettingError
from tests.helpers.edits import random_edits
from tests.helpers.judge import completion, served
from tests.helpers.models import requests, tiny_model, tiny_tokenizer

NOBODY = "http://127.0.0.1:9/v1"  # the port of a service that nobody runs


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    """No proxy between a test and its server, no pause, and no key of whoever runs the tests."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("lga_lightning.evaluation.judge_server.PAUSE", 0.0)
    monkeypatch.delenv("LGA_JUDGE_KEY", raising=False)


class Scripted(Judge):
    """Says what a function says, and fails where that raises."""

    def __init__(self, reply):
        super().__init__()
        self.reply, self.asked = reply, []

    def replies(self, prompts):
        for prompt in prompts:
            self.asked.append(prompt)
            yield self.reply(prompt)

    def settings(self):
        return {"model": "scripted"}


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("yes", True),
        ("Yes.", True),
        ("NO", False),
        (' **"No!"** ', False),
        ("yes\nIt says Rome.", True),
        ("no \r\n yes", False),
        ("Yes, it does", None),
        ("yes or no", None),
        ("not really", None),
        ("I cannot say", None),
        ("", None),
        ("\n", None),
        ("true", None),
    ],
)
def test_verdicts_are_yes_or_no_and_nothing_else(reply, verdict):
    assert parse_verdict(reply) is verdict


def test_the_prompt_says_what_is_to_be_judged():
    prompt = judge_prompt("Where is {it}?", ("Rome", "Roma"), "In {Rome}.\n%s")
    for expected in (
        "Prompt: Where is {it}?",
        "Expected answer: Rome / Roma",
        "-----\nIn {Rome}.\n%s\n-----",
        "yes or no",
    ):
        assert expected in prompt


def test_what_was_asked_before_is_not_asked_again():
    judge = Scripted(lambda prompt: "yes" if "a" in prompt else "hm")
    assert judge(["a", "b", "a"]) == [
        Judgement("a", "yes", True),
        Judgement("b", "hm", None),
        Judgement("a", "yes", True),
    ]
    assert judge(["b", "c", "ac"])[2].verdict is True
    assert judge.asked == ["a", "b", "c", "ac"]


def test_a_judge_that_fails_is_asked_no_more_and_what_it_said_stands():
    def reply(prompt):
        if prompt.startswith("bad"):
            raise JudgeError(f"It dislikes {prompt}.")
        return "no"

    def missing(prompt, why):
        return Judgement(prompt, None, None, f"It dislikes {why}.")

    judge, no = Scripted(reply), Judgement("a", "no", False)
    assert judge(["bad 1", "a", "bad 2", "b"]) == [
        missing("bad 1", "bad 1"),
        no,
        missing("bad 2", "bad 2"),
        Judgement("b", "no", False),
    ]
    assert judge(["bad 3", "bad 4", "c", "a"]) == [
        missing("bad 3", "bad 3"),
        missing("bad 4", "bad 4"),
        missing("c", "bad 4"),
        no,
    ]
    assert judge(["d", "bad 1"]) == [missing("d", "bad 4"), missing("bad 1", "bad 1")]
    assert judge.asked == ["bad 1", "a", "bad 2", "b", "bad 3", "bad 4"]
    judge.check()  # a new run begins anew
    assert judge(["c", "a"]) == [Judgement("c", "no", False), no]


@pytest.mark.parametrize("protocol", ["completion", "wild"])
def test_verdicts_become_scores(llama, tokenizer, protocol):
    def reply(prompt):
        if "Norway" in prompt:
            return "perhaps"  # a probe of every request
        return "yes" if "France" in prompt else "no"

    judge, data = Scripted(reply), requests(4)
    config = EvaluationConfig(max_new_tokens=4, fluency=True, protocol=protocol, context="", judge=judge)
    results = evaluate(llama, tokenizer, data, random_edits(llama, 4), config)
    everything = list(chain(*results))
    for result in everything:
        if result.group == "fluency":
            assert result.judgements is None
            continue
        for said, judgement in zip(result.said, result.judgements, strict=True):
            assert judgement.prompt == judge_prompt(result.prompt, result.answers, said)
            assert judgement.reply == reply(judgement.prompt)
        verdicts = tuple(judgement.verdict for judgement in result.judgements)
        assert result.scores.get("judged") == (None if None in verdicts else tuple(map(float, verdicts)))
    unclear = 2 * sum(result.answers == ("Norway",) for result in everything)
    judged = [result for result in everything if result.judgements]
    counts = {"responses": 2 * len(judged), "unclear": unclear, "missing": 0, "problem": None}
    assert count_verdicts(everything) == counts
    assert unclear == 8
    assert how_measured(config, results, False)["judge"] == {"model": "scripted", "verdicts": counts}
    assert mean_scores(results, "rewrite", "judged")[0].tolist() == [1, 1]  # The capital of France is
    assert len(judge.asked) == len(set(judge.asked))


def test_a_second_call_judges_the_new_edits_alone(llama, tokenizer):
    judge = Scripted(lambda prompt: "yes")
    evaluator = Evaluator(llama, tokenizer, requests(2), EvaluationConfig(max_new_tokens=3, judge=judge))
    first = evaluator(random_edits(llama, 2))
    count = len(judge.asked)
    again = evaluator(random_edits(llama, 2))
    assert len(judge.asked) == count
    assert [one.judgements for one in chain(*first)] == [one.judgements for one in chain(*again)]


# servers -------------------------------------------------------------------------------------------------------------


def test_a_server_is_asked_as_openai_is(monkeypatch):
    monkeypatch.setenv("LGA_JUDGE_KEY", "sesame")
    prompts = [f"{number} {'yes' if number % 3 else 'no'}" for number in range(30)]
    with served(lambda prompt: prompt.split()[1]) as stub:
        judge = ServerJudge(f"{stub.address}/", "m", timeout=20)
        found = judge(prompts)
    assert [one.prompt for one in found] == prompts  # whoever is first
    assert [one.verdict for one in found] == [number % 3 > 0 for number in range(30)]
    headers, content = stub.asked[0]
    assert headers["Authorization"] == "Bearer sesame"
    assert content["path"] == "/v1/chat/completions"
    assert (content["model"], content["temperature"], content["max_tokens"]) == ("m", 0, 16)
    assert sorted(c["messages"][0]["content"] for _, c in stub.asked) == sorted(prompts)
    assert "sesame" not in repr(judge.settings()) + repr(vars(judge))
    assert judge.settings()["address"] == stub.address
    assert pickle.loads(pickle.dumps(judge)).settings() == judge.settings()


def test_a_key_that_no_header_takes_is_not_shown(monkeypatch):
    monkeypatch.setenv("LGA_JUDGE_KEY", "sesame\r\n")
    with served(lambda prompt: "yes") as stub:
        ServerJudge(stub.address, "m")(["?"])
    assert stub.asked[0][0]["Authorization"] == "Bearer sesame"
    for key in ("ses\rame", "sésame"):
        monkeypatch.setenv("LGA_JUDGE_KEY", key)
        with pytest.raises(JudgeError, match="LGA_JUDGE_KEY holds characters that no key has") as caught:
            ServerJudge("http://127.0.0.1:9/v1", "m").check()
        assert key not in str(caught.value)


def test_without_a_key_none_is_sent():
    with served(lambda prompt: "garbage") as stub:
        (found,) = ServerJudge(stub.address, "m")(["?"])
    assert (found.reply, found.verdict, found.problem) == ("garbage", None, None)
    assert "Authorization" not in stub.asked[0][0]


@pytest.mark.parametrize(
    ("reply", "times", "said"),
    [
        ((200, "no JSON"), 1, r"something that is no chat completion \(JSONDecodeError\): 'no JSON'"),
        ((200, '{"error": "x"}'), 1, r"no chat completion \(KeyError\)"),
        ((200, '{"choices": []}'), 1, r"no chat completion \(IndexError\)"),
        ((200, "[1]"), 1, r"no chat completion \(TypeError\)"),
        (
            (401, "who is sesame?"),
            1,
            r"HTTP 401: 'who is \(key\)\?'. Put the key into the environment variable LGA_JUDGE",
        ),
        ((404, "no such model"), 1, r"HTTP 404: 'no such model'. Check the address, .* the model's name, 'm'"),
        ((400, "x" * 999), 1, r"HTTP 400: 'x{200}'. Check the model's name"),
        ((302, "http://127.0.0.1:9/v1"), 1, "HTTP 302: .*It redirects, which is not followed"),
        ((503, "busy"), 3, "HTTP 503: 'busy'. Try again later, or ask another server. It was asked 3 times."),
        ((429, "slow down"), 3, "HTTP 429: 'slow down'.* It was asked 3 times."),
        (0.6, 3, "said nothing for 0.2 s. Check that the server runs .*--edits.judge_timeout.* It was asked 3 times."),
        (0.0, 3, r"cannot be reached \(RemoteDisconnected.* It was asked 3 times."),
    ],
)
def test_a_server_that_fails(reply, times, said, monkeypatch):
    monkeypatch.setenv("LGA_JUDGE_KEY", "sesame")
    with served(lambda prompt: "yes" if prompt == "good" else reply) as stub:
        judge = ServerJudge(stub.address, "m", timeout=0.2 if reply == 0.6 else 20)
        assert judge(["good"]) == [Judgement("good", "yes", True)]
        found = judge(["good", "bad"])
        assert len(stub.asked) == 1 + times
        assert judge(["other"])[0].problem == found[1].problem
        assert judge(["more"])[0].problem == found[1].problem  # it is asked no more
        assert len(stub.asked) == 1 + 2 * times
        with pytest.raises(JudgeError, match=said):
            ServerJudge(stub.address, "m", timeout=0.2 if reply == 0.6 else 20).check()
    assert found[0] == Judgement("good", "yes", True)
    assert (found[1].reply, found[1].verdict) == (None, None)
    assert stub.address in found[1].problem
    assert "sesame" not in found[1].problem


def test_a_busy_server_is_asked_again():
    with served(lambda prompt: (503, "busy") if len(stub.asked) < 3 else "no") as stub:
        assert ServerJudge(stub.address, "m")(["?"]) == [Judgement("?", "no", False)]
    assert len(stub.asked) == 3


def test_a_model_that_only_thinks_says_nothing():
    with served(lambda prompt: (200, completion(None))) as stub:
        assert ServerJudge(stub.address, "m")(["?"]) == [Judgement("?", "", None)]


def test_nobody_listens():
    with pytest.raises(JudgeError, match=r"The judge at http://127.0.0.1:9/v1 cannot be reached \(.*refused"):
        ServerJudge(NOBODY, "m").check()


def test_a_server_that_fails_in_the_midst_leaves_all_other_scores(llama, tokenizer):
    def reply(prompt):
        return (500, "on fire") if "Prompt: The capital of France" in prompt else "yes"

    with served(reply) as stub:
        config = EvaluationConfig(max_new_tokens=4, judge=ServerJudge(stub.address, "m"))
        results = evaluate(llama, tokenizer, requests(3), random_edits(llama, 3), config)
    everything = list(chain(*results))
    counts = count_verdicts(everything)
    assert counts["responses"] == 2 * len(everything)
    assert counts["missing"] == 2
    assert "HTTP 500: 'on fire'" in counts["problem"]
    assert ["judged" in r.scores for r in everything] == [r.prompt != "The capital of France is" for r in everything]
    assert all({"token", "generated", "contained"} <= set(result.scores) for result in everything)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://me:secret@host/v1", "holds a password, .* the environment variable LGA_JUDGE_KEY"),
        ("http://host/v1?key=secret", "holds a password, or has a query"),
        ("http:///v1", "must be like 'http://localhost:8000/v1'"),
        ("ftp://host/v1", "must be like 'http://localhost:8000/v1'"),
        ("http://host:many/v1", "cannot be used: Port could not be cast"),
        ("http://[::1/v1", "cannot be used: Invalid IPv6"),
    ],
)
def test_addresses_that_are_refused(address, said):
    with pytest.raises(SettingError, match=said) as refused:
        ServerJudge(address, "m")
    assert "secret" not in str(refused.value)


def test_judges_by_name():
    assert named_judge(None) is None
    assert named_judge("some/model").settings()["model"] == "some/model"
    assert named_judge("HTTP://host/v1", "m", 3.0).timeout == 3.0
    with pytest.raises(SettingError, match=r"--edits.judge_model NAME \(`GET http://host/v1/models` lists them\)"):
        named_judge("http://host/v1/")
    with pytest.raises(SettingError, match="`judge_model` names a model on a server, but `judge` is None"):
        named_judge(None, "m")
    with pytest.raises(SettingError, match="`judge_timeout` must be a positive number of seconds, got 0"):
        named_judge("http://host/v1", "m", 0)


# models --------------------------------------------------------------------------------------------------------------


def decided(folder, word):
    """A model that says one word whatever it is asked, and then ends: what follows a token depends on that token alone."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([word])
    model, number = tiny_model("llama"), tokenizer.convert_tokens_to_ids(word)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[number, 1] = 2.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[number, 0] = 1.0  # after anything
        model.lm_head.weight[tokenizer.eos_token_id, 1] = 2.0  # after the word itself
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("word", "verdict"), [("yes", True), ("No.", False), ("maybe", None)])
def test_a_model_on_this_machine(word, verdict, tmp_path):
    judge = ModelJudge(decided(tmp_path, word), device="cpu")
    judge.check()
    prompts = [judge_prompt("?", ("!",), "so " * count) for count in range(20)]
    assert judge(prompts) == [Judgement(prompt, word, verdict) for prompt in prompts]
    assert judge.settings()["model"] == str(tmp_path)


def test_a_model_that_babbles_is_unclear(model_folder):
    judge = ModelJudge(str(model_folder), "float32", "cpu")
    prompts = [judge_prompt("?", ("!",), text) for text in ("a", "another one", "")]
    found = judge(prompts)
    assert [one.verdict for one in found] == [None] * 3
    alone = [ModelJudge(str(model_folder), "float32", "cpu")([prompt])[0] for prompt in prompts]
    assert found == alone


def test_no_such_model(tmp_path):
    with pytest.raises(ModelError, match="Could not load the model"):
        ModelJudge(str(tmp_path / "nothing")).check()


def test_a_judge_without_room(model_folder, monkeypatch):
    def no_room(*arguments):
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr("lga_lightning.evaluation.judge_model.load_model", no_room)
    (found,) = ModelJudge(str(model_folder))(["?"])
    assert "does not fit beside the edited model: tried to allocate. Take a smaller one" in found.problem
