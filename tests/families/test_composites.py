"""Models that also see: their text decoder is scored and edited."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from lga_lightning import load_model
from lga_lightning.editing import RROME
from lga_lightning.locators import LGA
from lga_lightning.models.architecture import blocks
from tests.editing.helpers import ids
from tests.families.table import PAGE
from tests.helpers.families import COMPOSITES, composite_config
from tests.helpers.gradients import EXACT, reference, relative_error
from tests.helpers.models import requests, tiny_tokenizer

BY_CAUSAL_LM = ("gemma3",)


@pytest.fixture(params=COMPOSITES)
def seeing(request, tmp_path):
    """A tiny model in float64, saved and loaded by the package."""
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if request.param in BY_CAUSAL_LM else AutoModelForImageTextToText
    model = auto.from_config(composite_config(request.param)).double()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return load_model(str(tmp_path / "model"), "float64")[0]


@pytest.mark.usefixtures("exact")
def test_the_text_decoder_is_scored_and_edited(seeing, tokenizer, tmp_path):
    decoder = {id(module) for module in seeing.get_decoder().modules()}
    assert all(id(block) in decoder for block in blocks(seeing))
    data = requests(2)
    expected = torch.stack([reference(seeing, tokenizer, request, "mlp_out") for request in data])
    assert relative_error(LGA("mlp_out", loss="answer").score(seeing, tokenizer, data).values, expected) < EXACT

    editor = RROME(second_moment="identity", steps=4, context_lengths=(3,), contexts_each=1)
    delta = editor.compute(seeing, tokenizer, data[:1], [1])
    with torch.no_grad():
        plain = seeing(ids()).logits
        with delta.attached(seeing):
            edited = seeing(ids()).logits
        assert (edited - plain).abs().max() > 0
        delta.save_pretrained(tmp_path / "adapter", seeing)
        loaded = PeftModel.from_pretrained(seeing, tmp_path / "adapter")(ids()).logits
    torch.testing.assert_close(loaded, edited, rtol=1e-5, atol=1e-6)  # adapters are in float32


def test_the_page_names_them():
    assert all(f"`{name}`" in PAGE.read_text() for name in COMPOSITES)
