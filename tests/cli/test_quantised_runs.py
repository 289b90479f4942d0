"""The verbs on a model in 8 bits."""

from __future__ import annotations

import json

import pytest

from lga_lightning.cli import run
from lga_lightning.exceptions import ModelError
from tests.helpers.cli import FAST_EDIT, refused

pytestmark = pytest.mark.usefixtures("at_the_shell")
INT8 = "--model.quantization=int8"


def test_fit_and_predict(arguments, tmp_path, capsys):
    pytest.importorskip("torchao")
    words = [*arguments, *FAST_EDIT, INT8, f"--trainer.default_root_dir={tmp_path}", "--data.limit=2"]
    run(["fit", *words])
    found = json.loads((tmp_path / "attribution.json").read_text())
    assert found["weights"].startswith("Int8Tensor ")
    run(["predict", *words])
    note = json.loads((tmp_path / "adapter" / "lga.json").read_text())
    ((layer, entry),) = note["edited"].items()
    assert (int(layer), entry["packing"]) == (found["golden_layer"], "Int8Tensor")
    with pytest.raises(
        ModelError, match=r"down_proj is quantised \(Int8Tensor\), so an edit cannot be written into it"
    ):
        run(["predict", *words, "--merge"])
    assert not (tmp_path / "merged").exists()


def test_a_wrong_name(arguments, capsys):
    error = refused(["fit", *arguments, "--model.quantization=int3"], capsys)
    assert "quantization" in error
    assert "int8" in error
