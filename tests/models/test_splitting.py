"""Matrices that are split among processes; what two processes find with them is tried in tests/modules/test_sharded.py."""

from __future__ import annotations

import pytest
from torch.distributed.device_mesh import DeviceMesh

from lga_lightning.exceptions import ModelError
from lga_lightning.models.splitting import split_
from tests.helpers.models import tiny_model


def test_fused_experts_are_refused():
    pytest.importorskip("transformers", minversion="5", reason="older ones fuse none")
    model = tiny_model("mixtral")
    with pytest.raises(
        ModelError, match=r"63% of the weights of MixtralForCausalLM are others \(model.layers.0.mlp.experts"
    ):
        split_(model, DeviceMesh.__new__(DeviceMesh))
    assert "forward" not in model.model.layers[0].mlp.__dict__  # nor is anything split
