"""What we wrote and somebody or something changed: one clear error, or what was written; nothing else."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lga_lightning.editing import WeightDelta
from lga_lightning.exceptions import DataError, LayerError, LGAError, ModelError
from lga_lightning.models.loading import load_model
from lga_lightning.results.attribution import LocatorResult
from tests.helpers.artefacts import ARTEFACTS, write_adapter, write_attribution
from tests.helpers.models import tiny_model

DRAWS = 60


def plain(found: Any) -> Any:
    """Something that can be compared: NaN equals NaN, and tensors are lists."""
    if isinstance(found, torch.Tensor):
        return found.tolist()
    if isinstance(found, WeightDelta):
        return {name: update.matrix.tolist() for name, update in found.updates.items()}
    return json.loads(json.dumps(found, default=lambda part: plain(part) if torch.is_tensor(part) else vars(part)))


def corrupt(path: Path, draw: random.Random) -> None:
    """A bit flipped, the end cut off, a stretch of zeros, or another content altogether."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    kind = draw.choice(["flip"] * 5 + ["cut", "cut", "zeros", "other"])
    if kind == "flip":
        content[place] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "zeros":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    else:
        content = bytearray(
            draw.choice([b"{}", b"[1, 2]", b"null", b"[" * 100_000, b"\x80\x04N.", b"PK\x03\x04", b'{"a": 1e999}'])
        )
    path.write_bytes(content)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_broken_artefact_is_refused_or_what_was_written(name, tmp_path):
    write, read = ARTEFACTS[name]
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole")
    expected = plain(read(tmp_path / "whole"))
    files = [path for path in sorted((tmp_path / "whole").rglob("*")) if path.is_file() and path.name != "README.md"]
    draw, paragraphs = random.Random(name), []
    for number in range(DRAWS):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        corrupt(folder / draw.choice(files).relative_to(tmp_path / "whole"), draw)
        try:
            found = read(folder)
        except LGAError as error:
            paragraphs.append(str(error))
        else:
            assert plain(found) == expected
        shutil.rmtree(folder)
    assert len(paragraphs) > DRAWS / 2
    assert all("\n\n" not in paragraph for paragraph in paragraphs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"golden_layer": 10**30}, "as 'golden_layer', where int should be"),
        ({"golden_layer": 7}, "names layer 7, where there are 4"),
        ({"golden_layer": "2"}, "has '2' as 'golden_layer'"),
        ({"ranking": [0, 0, 1, 2]}, "a ranking that is not one of all layers"),
        ({"scores": [1.0, 2.0]}, "numbers as 'standard_errors', where 2 should be"),
        ({"scores": [1.0, "2", 3.0, 4.0]}, "has '2' as 'scores', where float should be"),
        ({"scores": [10**400, 2.0, 3.0, 4.0]}, "as 'scores', where float should be"),
        ({"reach": [1.0]}, "1 numbers as 'reach', where 4 should be"),
        ({"num_requests": 1.5}, "as 'num_requests', where int should be"),
        ({"versions": []}, "as 'versions', where dict"),
        ({"seconds": 2.0}, "was changed after it was written: .* leave out the line 'checksum'"),
    ],
)
def test_an_attribution_that_was_changed_by_hand(change, said, tmp_path):
    write_attribution(tmp_path)
    path = tmp_path / "attribution.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LayerError, match=f"{said}.*Run `lga fit` again"):
        LocatorResult.load(path)


def test_a_change_that_is_meant(tmp_path):
    write_attribution(tmp_path)
    path = tmp_path / "attribution.json"
    content = {**json.loads(path.read_text()), "seconds": 2}
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert LocatorResult.load(path).seconds == 2.0


@pytest.mark.parametrize("change", ["NaN", "key", "shape"])
def test_an_adapter_that_somebody_else_made(change, tmp_path):
    """Without our checksums."""
    from safetensors.torch import load_file, save_file

    write_adapter(tmp_path)
    note = json.loads((tmp_path / "a" / "lga.json").read_text())
    del note["checksum"], note["files"]
    (tmp_path / "a" / "lga.json").write_text(json.dumps(note))
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    if change == "NaN":
        tensors[name][0, 0] = torch.nan
    elif change == "key":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, path)
    with pytest.raises(DataError, match=r"or it is broken|not as they were written"):
        WeightDelta.load(tmp_path / "a", tiny_model("llama"))


def test_a_model_whose_weights_are_cut_off(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="Could not load the model"):
        load_model(str(folder))
