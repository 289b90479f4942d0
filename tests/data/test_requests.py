"""Requests: what is refused and why, and where a subject ends, in characters and in tokens."""

from __future__ import annotations

import pytest
from tokenizers import normalizers

from lga_lightning.data.requests import EditRequest, Probe, check_subjects, end_of_subject
from lga_lightning.exceptions import DataError, InvalidRequest
from lga_lightning.models.encoding import token_at
from tests.helpers.tokenizers import KINDS, subject_last_token, toy_tokenizer

VALID = {"prompt": "Rome is in", "subject": "Rome", "target_new": "France", "target_old": "Italy"}


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"subject": "Paris"}, "subject not in the prompt", ["'Paris'", "'Rome is in'", "must contain the subject"]),
        ({"subject": "rome"}, "subject not in the prompt", ["'rome'", "letter for letter"]),
        ({"target_new_aliases": ("x", " ")}, "empty alias", ["'Rome is in'", "drop it"]),
        ({"target_old_aliases": ("",)}, "empty alias", ["'Rome is in'", "drop it"]),
        ({"prompt": " ", "subject": None}, "empty prompt", ["`prompt`", "'France'", "Give the text"]),
        ({"subject": ""}, "empty subject", ["'Rome is in'", "Say what the fact is about", "leave the field out"]),
        ({"subject": " \n"}, "empty subject", ["'Rome is in'", "Say what the fact is about"]),
        ({"target_new": " "}, "empty target", ["`target_new`", "'Rome is in'", "Give the answer"]),
        ({"target_old": ""}, "empty target", ["`target_old`", "'Rome is in'", "leave the field out"]),
        ({"target_old": " France "}, "old and new target are equal", ["'Rome is in'", "'France'", "nothing to edit"]),
    ],
)
def test_refused(fields, reason, said):
    with pytest.raises(InvalidRequest) as caught:
        EditRequest(**{**VALID, **fields})
    assert caught.value.reason == reason
    for text in said:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "answers", "reason", "said"),
    [
        ("  ", ("Rome",), "probe without a prompt", ["empty prompt", "Give it a text"]),
        ("Oslo is in", (), "probe without an answer", ["'Oslo is in'", "at least one answer"]),
        ("Oslo is in", ("Norway", " "), "probe without an answer", ["'Oslo is in'", "['Norway', ' ']"]),
    ],
)
def test_refused_probes(prompt, answers, reason, said):
    with pytest.raises(InvalidRequest) as caught:
        Probe(prompt, answers)
    assert caught.value.reason == reason
    for text in said:
        assert text in str(caught.value)


def test_an_invalid_request_is_a_data_error_and_a_value_error():
    assert issubclass(InvalidRequest, DataError)
    assert issubclass(InvalidRequest, ValueError)


def test_an_unknown_old_target_and_space_around_a_subject_are_fine():
    request = EditRequest("Rome is in", " Rome ", "France")
    assert request.target_old is None
    assert request.subject_end == len("Rome")


def test_a_request_need_not_have_a_subject():
    request = EditRequest("Who wrote Emma? ", None, "Jane Austen", id="facts.jsonl, line 3")
    assert (request.about, request.anchor_end) == (request.prompt, len("Who wrote Emma?"))
    with pytest.raises(InvalidRequest, match=r"'Who wrote Emma\? ' \(facts.jsonl, line 3\) has no subject. Say in"):
        _ = request.subject_end
    with_one = EditRequest("Who wrote Emma? ", "Emma", "Jane Austen")
    assert (with_one.about, with_one.anchor_end) == ("Emma", with_one.subject_end)


def test_who_needs_subjects_names_the_first_request_without():
    sound = EditRequest("Rome is in", "Rome", "France")
    check_subjects([sound, sound], "ROME")
    with pytest.raises(InvalidRequest, match="ROME works at the subject's last token, and the request 'Oslo is in'"):
        check_subjects([sound, EditRequest("Oslo is in", None, "France")], "ROME")


@pytest.mark.parametrize(
    ("text", "subject", "before"),
    [
        ("Rome is in", "Rome", ""),
        ("In Rome, Rome is", "Rome", "In "),  # the first of several
        ("Romeo left Rome for", "Rome", "Romeo left "),  # a whole word before a part of one
        ("Romeo and Romeos", "Rome", ""),  # a part where there is no whole word
        ("preRome postRome Rome_1 Rome", "Rome", "preRome postRome Rome_1 "),
        ("Is C++ older than C+", "C+", "Is "),  # a sign is no part of a word
        ("What (a.b)* [c] means", "(a.b)* [c]", "What "),
        ("axb a.b is", "a.b", "axb "),
        ("Zoëlle met Zoë in", "Zoë", "Zoëlle met "),  # letters are not only a to z
        ("東京都は日本の", "東京", ""),
        ("The flag 🇫🇷 is of", "🇫🇷", "The flag "),
        ("Where is Lyon?", "  Lyon ", "Where is "),
    ],
)
def test_end_of_subject(text, subject, before):
    assert end_of_subject(text, subject) == len(before) + len(subject.strip())


def test_end_of_subject_of_a_text_without_it():
    with pytest.raises(InvalidRequest, match="'Oslo' does not occur in 'Rome is in'") as caught:
        end_of_subject("Rome is in", "Oslo")
    assert caught.value.reason == "subject not in the prompt"


def first_token_that_reaches(tokenizer, text: str, end: int) -> int:
    """Index of the token with which the decoded text first agrees with ``text`` up to ``end``."""
    ids = tokenizer(text)["input_ids"]
    for index in range(len(ids)):
        decoded = tokenizer.decode(ids[: index + 1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if decoded[:end] == text[:end]:
            return index
    raise AssertionError(f"{text!r} is not what its tokens decode to")


PROMPTS = [
    ("Rome", "Rome"),
    ("Rome is in", "Rome"),
    ("The capital of France", "France"),
    ("The capital of France is", "France"),
    ("Is F or G the", "F"),
    ("F is a letter", "F"),
    ("Danielle Darrieux's mother tongue", "Danielle Darrieux"),
    ("Zoë", "Zoë"),
    ("Zoë lives in Malmö, I think", "Malmö"),
    ("The works of Åse Ødegå", "Åse Ødegå"),
    ("東京都は日本の", "東京都"),
    ("The flag 🇫🇷 is that of", "flag 🇫🇷"),
    ("👩‍👩‍👧 is a family, and 👩‍👩‍👧 too", "👩‍👩‍👧"),
    ("Malmo\u0308 is in", "Malmo\u0308"),
    ("the (a.b)* operator", "(a.b)*"),
]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_subjects_last_token_holds_its_last_character(kind, bos):
    tokenizer = toy_tokenizer(kind, bos=bos)
    for text, subject in PROMPTS:
        expected = first_token_that_reaches(tokenizer, text, text.index(subject) + len(subject))
        assert subject_last_token(tokenizer, text, subject) == expected, (text, subject)


@pytest.mark.parametrize("kind", KINDS)
def test_bos_shifts_the_index_by_one_and_eos_does_not(kind):
    for text, subject in PROMPTS:
        plain = subject_last_token(toy_tokenizer(kind), text, subject)
        assert subject_last_token(toy_tokenizer(kind, bos=True), text, subject) == plain + 1
        assert subject_last_token(toy_tokenizer(kind, eos=True), text, subject) == plain


@pytest.mark.parametrize("eos", [False, True])
def test_a_character_that_the_normaliser_drops(eos):
    tokenizer = toy_tokenizer("byte-level", eos=eos)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    text = "Malmo\u0308 is in"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    index = subject_last_token(tokenizer, text, "Malmo\u0308")
    assert "".join(tokens[: index + 1]) == "Malmo"


def test_token_at():
    offsets = [(0, 0), (0, 1), (0, 4), (4, 5), (4, 5), (6, 9)]
    assert [token_at(offsets, character) for character in (0, 3, 4, 5, 6, 8)] == [2, 2, 4, 4, 5, 5]
    assert token_at([(0, 0), (2, 4), (4, 5)], 0) == 1  # nothing stands for what the text begins with


def test_last_token_of_a_text_without_the_subject(tokenizer):
    with pytest.raises(InvalidRequest, match="does not occur"):
        subject_last_token(tokenizer, "Rome is in", "Oslo")
