"""Which requests count, and why the others do not."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from lga_lightning.data import RequestBatch
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.functional import find_golden_layer
from lga_lightning.locators import LGA, FixedLayer, old_answers, score_requests
from lga_lightning.locators.base import FIELDS_OF_RESULTS
from lga_lightning.locators.score_requests import SKIPPED
from lga_lightning.locators.selection import Choice
from lga_lightning.models.chat import ChatTokenizer
from lga_lightning.results.attribution import LocatorResult
from tests.helpers.models import requests, tiny_tokenizer
from tests.helpers.results import locator_result
from tests.helpers.tokenizers import LINES


class Columns(FixedLayer):
    """A locator of somebody's own, with a column called as a field of the result is."""

    columns = ("scores", "mine", "weights")


def test_columns_called_as_fields_are_refused_before_anything_is_scored(llama, tokenizer):
    with pytest.raises(SettingError, match=r"The columns \['weights'\] of .* cannot be written"):
        find_golden_layer(llama, tokenizer, requests(2), Columns(1))


def test_names_that_are_taken_are_the_fields_of_results(tmp_path):
    locator_result(torch.rand(3, 4), means={}, half_widths={}).save(tmp_path / "attribution.json")
    written = json.loads((tmp_path / "attribution.json").read_text())
    assert {*written, *(one.name for kind in (LocatorResult, Choice) for one in fields(kind))} == FIELDS_OF_RESULTS


@pytest.fixture
def silent(monkeypatch):
    """A model that gives no answer of its own."""
    monkeypatch.setattr(old_answers, "greedy_answers", lambda model, tokenizer, prompts: [""] * len(prompts))


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(("template", "in_chat", "expected"), [(None, False, 2), (LINES, False, 4), (LINES, True, 2)])
def test_questions_without_an_answer_say_what_helps(template, in_chat, expected, llama):
    """Only where there is a chat template, and it is not used so far."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    asked = [replace(request, target_old=None, prompt=f"{request.prompt}?") for request in requests(3)]
    asked[1] = replace(asked[1], prompt=requests(2)[1].prompt)  # no question
    given = ChatTokenizer(tokenizer) if in_chat else tokenizer
    batch = RequestBatch([0, 1, 2], asked)
    status = score_requests.score_requests(LGA(), llama, given, batch)["status"].tolist()
    assert status == [expected, 2, expected]
    with pytest.raises(DataError, match="is left to score layers by") as caught:
        find_golden_layer(llama, given, asked, LGA())
    assert ("--data.chat_template true" in str(caught.value)) == (expected == 4)
    assert "{" not in str(caught.value)
    assert "--data.chat_template true" in SKIPPED[4]
