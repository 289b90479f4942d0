"""What a session remembers goes into tensors and comes back, whatever the method keeps."""

from __future__ import annotations

import pytest
import torch

from lga_lightning.editing import AlphaEdit, CrispEdit, UltraEdit
from lga_lightning.editing.session import EditSession
from lga_lightning.editing.session_memory import pack_history
from tests.editing.helpers import method_for
from tests.helpers.models import requests, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("kind", [AlphaEdit, CrispEdit, UltraEdit])
def test_a_session_that_is_taken_up_goes_on_as_the_other(kind):
    model, tokenizer, asked = tiny_model("llama").double(), tiny_tokenizer(), requests(6)
    whole = EditSession(method_for(kind, model), model, tokenizer, 1)
    whole.edit(asked[:3])
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    assert any(name.startswith("history.") for name in state)
    taken_up = EditSession(method_for(kind, model), model, tokenizer, 1)
    taken_up.load_state_dict(state, asked[:3])
    for session in (whole, taken_up):
        session.edit(asked[3:])
    expected, found = pack_history(whole.history), pack_history(taken_up.history)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name])
    for name in whole.delta.updates:
        assert torch.equal(whole.delta.matrix(name), taken_up.delta.matrix(name))
