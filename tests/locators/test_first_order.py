"""Forecasts against materialised gradients and updates, one request and one row at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import normalizers

from lga_lightning.data.requests import Probe
from lga_lightning.editing import EMMET, FTL, FTM, MEMIT, PMET, ROME, RROME, AlphaEdit, CrispEdit, LocFT
from lga_lightning.locators import EditForecast
from lga_lightning.locators.first_order import encode_rows, forecast_rows
from lga_lightning.locators.score_requests import score_all
from lga_lightning.models.architecture import blocks
from tests.editing.helpers import curvatures, second_moments
from tests.helpers.families import FAMILIES
from tests.helpers.forecast import flat, forecast_by_hand, look
from tests.helpers.gradients import EXACT
from tests.helpers.models import requests, tiny_model, tiny_tokenizer
from tests.helpers.tokenizers import subject_last_token

SEARCH = {"steps": 6, "context_lengths": (3,), "contexts_each": 1}


def with_moments(editor, model):
    """The editor with a C of its own, other than the identity."""
    editor.covariance._covariances[model] = second_moments(model, range(len(blocks(model))))
    return editor


EDITORS = {
    "R-ROME": lambda: RROME(second_moment="identity", **SEARCH),
    "MEMIT": lambda: MEMIT(window=3, moment_weight=2.0, second_moment="identity", **SEARCH),
    "EMMET": lambda: EMMET(moment_weight=2.0, window=2, second_moment="identity", **SEARCH),
    "PMET": lambda: PMET(window=3, moment_weight=2.0, second_moment="identity", **SEARCH),
    "FT-M": FTM,
    "FT-L": FTL,
    "CrispEdit": lambda: CrispEdit(epochs=2, learning_rate=1e-3, energy=0.6, window=3),
    "CrispEdit, few steps": lambda: CrispEdit(epochs=2, learning_rate=1e-5, energy=0.6, window=2),
    "LocFT-BF": lambda: LocFT(epochs=2, learning_rate=1e-4),
    "ROME": lambda: ROME(second_moment="identity", **SEARCH),
    "R-ROME with C": lambda: RROME(second_moment="sampled", **SEARCH),
    "AlphaEdit": lambda: AlphaEdit(window=2, l2=0.1, second_moment="sampled", **SEARCH),
}


CASES = [(family, name) for family in sorted(FAMILIES) for name in ("R-ROME", "MEMIT")]
CASES += [
    (family, name) for family in ("gemma3_text", "gpt2", "gptj") for name in EDITORS if name not in ("R-ROME", "MEMIT")
]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("family", "name"), CASES)
def test_equals_autograd_in_float64(family, name, tokenizer):
    model, editor, data = tiny_model(family, torch.float64), EDITORS[name](), requests(3)
    if name in ("R-ROME with C", "AlphaEdit"):
        with_moments(editor, model)
    if name.startswith("CrispEdit"):
        editor._curvatures[model] = curvatures(model)
    data[1] = replace(data[1], locality={})
    others = [[], [data[0], data[2]], []]
    expected = [forecast_by_hand(model, editor, tokenizer, *pair) for pair in zip(data, others, strict=True)]
    for size in (1, 2):
        for start in range(0, len(data), size):
            part = slice(start, start + size)
            rows = encode_rows(tokenizer, data[part], others[part])
            found = forecast_rows(model, editor, rows, len(data[part]))
            values = torch.cat([torch.stack([rows.ask, found.behind, found.right], 1), found.gain], 1)
            for number, wanted in enumerate(expected[part]):
                mine = values[rows.owner == number]
                assert ((mine - wanted).abs() <= EXACT * wanted.abs().amax()).all()


def test_a_long_answer_behind_a_long_prompt_of_others(tokenizer):
    """It is put behind probes and other facts, too, where it need not fit."""
    long, new = "Rome is in " + "x" * 45, "the country of " + "y" * 30
    asked = replace(requests(1)[0], target_new=new, locality={"near": (Probe(long, ("a",)),)})
    other = replace(asked, prompt=long, subject="Rome", target_new="a", locality={})
    locator = EditForecast(RROME(second_moment="identity"))
    for data in ([asked], [replace(asked, locality={}), other]):
        values = score_all(locator, tiny_model("gpt2"), tokenizer, data).compute()[1]  # 64 positions
        assert values[:, 0].isfinite().all()


def test_a_probe_that_begins_with_what_the_tokenizer_drops():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    probe = Probe("\u200bOslo is in", ("Norway",))
    rows = encode_rows(tokenizer, [replace(requests(1)[0], locality={"near": (probe,)}, rephrases=())], [[]])
    assert tokenizer.decode(rows.batch.input_ids[1]).startswith("Oslo is in")


def test_a_small_update_changes_what_its_gradient_says(tokenizer, monkeypatch):
    """To first order the forecast is <dL/dW, dW>, gradient and update materialised."""
    model, data = tiny_model("llama", torch.float64), requests(2)
    monkeypatch.setattr(RROME, "search_end", lambda self, model, values, gradients: -1e-7 * gradients.unsqueeze(1))
    editor = RROME(second_moment="identity", **SEARCH)
    rows = encode_rows(tokenizer, data, [[], []])
    found = forecast_rows(model, editor, rows, 2)
    for number, request in enumerate(data):
        subject = subject_last_token(tokenizer, request.prompt, request.subject)
        *_, own = look(model, tokenizer, request.prompt, request.target_new, False)
        for layer, at in enumerate(own):
            key, gradient = flat(at["input"])[subject], flat(at["value"].grad)[subject]
            dW = torch.outer(-1e-7 * gradient, key / (key @ key))
            assert float(found.gain[number, layer]) == pytest.approx(-float((at["W"] * dW).sum()), rel=1e-6, abs=1e-18)
