"""Prompts in a chat template: where the subject is, where the answer begins, and no token twice."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import lightning as L
import pytest
from transformers import PreTrainedTokenizerBase

from lga_lightning.cli import run
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.context_templates import sample_contexts
from lga_lightning.exceptions import ModelError
from lga_lightning.models.chat import ChatTokenizer, plain
from lga_lightning.models.encoding import encode_answers, target_ids
from lga_lightning.models.generation import greedy_answers
from lga_lightning.models.loading import EMBEDDED_NAME, load_model, load_tokenizer
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from tests.helpers.cli import QUICK
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_model, tiny_tokenizer
from tests.helpers.tokenizers import KINDS, LINES, subject_last_token, toy_tokenizer

# as Llama 2's and Mistral's: a space before the answer
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
# no BOS, nothing in front, and something before the answer that a generation prompt would lack
BARE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}\n\n{% else %}(none)\n{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{% endif %}"
)
TEMPLATES = {"lines": LINES, "brackets": BRACKETS, "bare": BARE}
ASKED = [
    EditRequest("The capital of France is", "France", "Paris"),
    EditRequest("Rome", "Rome", "Zoë"),
    EditRequest("In Rome, Rome is in", "Rome", "東京"),
    EditRequest("The mother tongue of Zoë", "Zoë", "(a.b)*"),
    EditRequest("Where is 東京? 東京都 is in", "東京都", "Rome is"),
]


def chat_tokenizer(kind: str, template: str, bos: bool = True, eos: bool = False) -> ChatTokenizer:
    tokenizer = toy_tokenizer(kind, bos=bos, eos=eos)
    tokenizer.chat_template = TEMPLATES[template]
    return ChatTokenizer(tokenizer)


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(params=TEMPLATES)
def template(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def embedded(embedded_package) -> PreTrainedTokenizerBase:
    return load_tokenizer(EMBEDDED_NAME)


def rendered(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> str:
    """A whole chat up to the end of the answer."""
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    return text[: text.rindex(answer) + len(answer)]


def check_rows(chat: ChatTokenizer, asked: list[EditRequest]) -> None:
    """Prompt and answer are together what the tokenizer makes of the rendered chat; the subject is in the user's turn."""
    batch = encode_answers(
        chat, [r.prompt for r in asked], [r.target_new for r in asked], [r.subject_end for r in asked]
    )
    for row, request in enumerate(asked):
        text = rendered(chat.plain, request.prompt, request.target_new)
        expected = chat.plain(text, add_special_tokens=False, return_offsets_mapping=True)
        answer = batch.labels[row][batch.labels[row] >= 0].tolist()
        length = int(batch.positions[row].max()) + 2
        assert batch.input_ids[row, :length].tolist() == expected["input_ids"][: length - 1] + answer[-1:]
        assert batch.input_ids[row, :length].tolist() == expected["input_ids"]
        assert answer == expected["input_ids"][-len(answer) :]
        # the last token that covers the subject's last character in the user's turn
        turn = text.index(request.prompt, text.find("User: ") + 1)
        character = turn + request.subject_end - 1
        covering = [i for i, (start, end) in enumerate(expected["offset_mapping"]) if start <= character < end]
        assert int(batch.subject[row]) == covering[-1] == subject_last_token(chat, request.prompt, request.subject)


def test_rows_are_what_the_tokenizer_makes_of_the_whole_chat(kind, template):
    check_rows(chat_tokenizer(kind, template), ASKED)


@pytest.mark.parametrize("special", [{"bos": False}, {"bos": True}, {"bos": True, "eos": True}])
def test_the_templates_bos_is_the_only_one(kind, template, special):
    chat = chat_tokenizer(kind, template, **special)
    batch = encode_answers(chat, ["Rome is in"], ["Paris"])
    assert batch.input_ids[0].tolist().count(chat.bos_token_id) == (0 if template == "bare" else 1)
    assert chat.eos_token_id not in batch.input_ids[0].tolist()


def test_an_answer_begins_as_the_template_has_it(kind):
    for template, space in [("lines", ""), ("brackets", " "), ("bare", "")]:
        chat = chat_tokenizer(kind, template)
        assert (chat.space, chat.after.endswith("\n")) == (bool(space), not space)
        texts = [
            chat.plain.decode(chat("Rome")["input_ids"] + target_ids(chat, answer)) for answer in ("Paris", " Paris ")
        ]
        assert texts[0] == texts[1]
        assert texts[0].endswith(f"{chat.after[-1]}{space}Paris")


def test_space_around_a_prompt_moves_nothing(kind):
    chat = chat_tokenizer(kind, "lines")
    (one,), (other,) = (encode_answers(chat, [f"Rome is in{end}"], ["Paris"]).input_ids.tolist() for end in ("", " \n"))
    assert one == other


def test_texts_without_special_tokens_are_plain(kind, template):
    chat = chat_tokenizer(kind, template)
    text = "Rome is in"
    expected = chat.plain(text, add_special_tokens=False, return_offsets_mapping=True)
    found = chat(text, add_special_tokens=False, return_offsets_mapping=True)
    assert found == {name: expected[name] for name in ("input_ids", "offset_mapping")}
    assert chat([text, "a"])["input_ids"] == [chat(text)["input_ids"], chat("a")["input_ids"]]
    assert plain(chat) is plain(chat.plain) is chat.plain
    assert chat.eos_token == chat.plain.eos_token
    assert pickle.loads(pickle.dumps(chat)).before == chat.before


def test_a_template_that_takes_contents_in_parts():
    """As SmolVLM's: pictures and text, one after the other."""
    parts, plain_text = toy_tokenizer("byte-level"), toy_tokenizer("byte-level")
    turn = "{% for m in messages %}{{ m['role'] }}: CONTENT</s>\n{% endfor %}"
    part = "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    parts.chat_template = turn.replace("CONTENT", part)
    plain_text.chat_template = turn.replace("CONTENT", "{{ m['content'] }}")
    found, expected = ChatTokenizer(parts), ChatTokenizer(plain_text)
    assert vars(found) | {"plain": None} == vars(expected) | {"plain": None}
    assert found("Rome is in") == expected("Rome is in")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "cannot be used"),
        ("{{ messages[0]['content'] }}", "cannot be used"),
        ("{% for m in messages %}{{ m['content'] }}{{ messages[0]['content'] }}{% endfor %}", "cannot be used"),
        ("{{ 1 / 0 }}", "cannot be used"),
        ("{% broken", "cannot be used"),
    ],
)
def test_templates_that_cannot_be_used(template, said):
    tokenizer = toy_tokenizer("byte-level")
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=said) as caught:
        ChatTokenizer(tokenizer)
    assert "Leave out --data.chat_template" in str(caught.value)


def test_texts_of_the_models_own_are_no_chat():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    tokenizer.chat_template = LINES
    options = {"lengths": (4,), "each": 2}
    chat = ChatTokenizer(tokenizer)
    assert sample_contexts(model, chat, **options) == sample_contexts(model, tokenizer, **options)
    assert greedy_answers(model, chat, ["Rome is in"], 5) != greedy_answers(model, tokenizer, ["Rome is in"], 5)


def test_a_modules_tokenizer_is_as_the_data_has_it(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = LINES
    module = LGAModule(model=tiny_model("llama"), tokenizer=tokenizer)
    facts = write_rows(tmp_path / "facts.jsonl", rows(2))
    for chat in (False, True, True, False):
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
        trainer.fit(module, datamodule=EditDataModule(str(facts), chat_template=chat))
        assert isinstance(module.tokenizer, ChatTokenizer) == chat
        assert plain(module.tokenizer).bos_token == "<s>"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = LINES
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model("llama").save_pretrained(tmp_path / "model")
    asked = [{"prompt": r.prompt, "subject": r.subject, "target_new": r.target_new} for r in requests(3)]
    write_rows(tmp_path / "facts.jsonl", asked)
    return [
        f"--model.model_name={tmp_path / 'model'}",
        f"--data.requests={tmp_path / 'facts.jsonl'}",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        *QUICK,
    ]


def test_the_command_line_asks_in_the_chat(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lga"])
    results = []
    for chat in ("false", "true"):
        run(["fit", *arguments, f"--data.chat_template={chat}"])
        results.append(json.loads((tmp_path / "run" / "attribution.json").read_text()))
    assert results[0]["scores"] != results[1]["scores"]
    assert [result["data"] for result in results] == ["facts.jsonl", "facts.jsonl, in the chat template"]
    edit = ["--model.editor.steps=3", "--model.editor.contexts_each=1", "--model.editor.context_lengths=[3]"]
    run(["validate", *arguments, *edit, "--data.chat_template=true"])
    assert json.loads((tmp_path / "run" / "validation.json").read_text())["num_requests"] == 3


def test_a_real_chat_template(embedded):
    chat = ChatTokenizer(embedded)
    check_rows(chat, [EditRequest(r.prompt, r.subject, r.target_new) for r in ASKED])
    prompt = [{"role": "user", "content": "Rome is in"}]
    text = embedded.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert f"{chat.before}Rome is in{chat.after}" == text
    request = EditRequest("Is SmolLM a dog or a", "SmolLM", "cat")  # the system prompt speaks of SmolLM
    ids = chat(request.prompt)["input_ids"]
    index = subject_last_token(chat, request.prompt, request.subject)
    assert embedded.decode(ids[: index + 1]).endswith("user\nIs SmolLM")


@pytest.mark.usefixtures("embedded")
def test_a_real_model_answers_in_the_chat():
    model, tokenizer = load_model(EMBEDDED_NAME)
    (said,) = greedy_answers(model, ChatTokenizer(tokenizer), ["What is the capital of France?"], 12)
    assert "Paris" in said
