"""A fact in one line."""

from __future__ import annotations

import pytest

from lga_lightning.data.short_facts import parse_fact
from lga_lightning.exceptions import InvalidRequest


def test_a_subject_may_be_left_empty():
    fact = parse_fact("Who wrote Emma?||Mark Twain")
    assert (fact.prompt, fact.subject, fact.target_new) == ("Who wrote Emma?", None, "Mark Twain")


@pytest.mark.parametrize(
    "text", ["", "The capital of France is", "a|b", "a|a|b|c", "|France|Rome", "France is|France| "]
)
def test_what_is_no_fact(text):
    with pytest.raises(InvalidRequest):
        parse_fact(text)


def test_how_to_write_one_is_said():
    with pytest.raises(
        InvalidRequest, match=r"prompt\|subject\|target, as in 'The capital of France is\|France\|Rome', got 'a\|b'"
    ):
        parse_fact("a|b")
    with pytest.raises(InvalidRequest, match="The subject 'Oslo' does not occur in the prompt 'Rome is in'"):
        parse_fact("Rome is in|Oslo|France")
