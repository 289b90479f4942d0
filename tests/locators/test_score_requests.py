"""Which requests count, and why the others do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lga_lightning.data import RequestBatch
from lga_lightning.exceptions import DataError
from lga_lightning.functional import find_golden_layer
from lga_lightning.locators import LGA, old_answers, score_requests
from lga_lightning.locators.score_requests import SKIPPED
from lga_lightning.models.chat import ChatTokenizer
from tests.helpers.models import requests, tiny_tokenizer
from tests.helpers.tokenizers import LINES


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
