"""The attribution against plain per-request autograd."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.locators import LGA
from lga_lightning.models.architecture import SCOPES
from tests.helpers.gradients import EXACT, reference, relative_error
from tests.helpers.models import requests, tiny_model


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_autograd_in_float64(family, scope, tokenizer):
    model = tiny_model(family, torch.float64)
    data = requests(8)
    expected = torch.stack([reference(model, tokenizer, request, scope) for request in data])
    for size in (1, 3, 8):
        batches = [data[start : start + size] for start in range(0, len(data), size)]
        values = torch.cat([LGA(scope, statistic="dot").score(model, tokenizer, batch).values for batch in batches])
        assert relative_error(values, expected) < EXACT
        # every single score, also where it is small beside the other layers'
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12 * expected.abs().max().item())
