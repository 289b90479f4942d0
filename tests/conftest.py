from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lga_lightning.evaluation.protocols import PROTOCOLS
from lga_lightning.models.packaged import GEMMA3, SMOLLM2, PackagedModel
from tests.helpers.cli import QUICK
from tests.helpers.data import rows, write_rows
from tests.helpers.families import FAMILIES
from tests.helpers.models import tiny_model, tiny_tokenizer
from tests.helpers.quantised import saved_model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama and its tokenizer, to be loaded by a folder's name."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quantised_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama whose sizes suit 4 bits, and its tokenizer."""
    return saved_model(tmp_path_factory.mktemp("quantised"))


@pytest.fixture(scope="session")
def embedded_package() -> None:
    """The embedded model is installed, or the test is skipped."""
    _skip_without(SMOLLM2)


@pytest.fixture(scope="session")
def gemma_package() -> None:
    """Gemma 3 270M is installed, or the test is skipped."""
    _skip_without(GEMMA3)


def _skip_without(model: PackagedModel) -> None:
    if model.version is None:
        pytest.skip(f"needs the model {model.name}: {model.install}")


@pytest.fixture
def at_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing on the command line yet, and results go where nobody else's are."""
    monkeypatch.setattr(sys, "argv", ["lga"])
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arguments(model_folder: Path, tmp_path: Path) -> list[str]:
    """A command line with a tiny model and 13 requests."""
    data = write_rows(tmp_path / "requests.jsonl", rows(13))
    return [f"--model.model_name={model_folder}", f"--data.requests={data}", "--data.batch_size=2", *QUICK]


@pytest.fixture
def llama() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("covariance.store", "results.known_layers"):  # not the user's
        monkeypatch.setattr(f"lga_lightning.{module}.cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(autouse=True)
def _short_answers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of six tokens, where a test asks for no other length: tiny models, which say anything, come to no end."""
    if not {"embedded_package", "gemma_package"} & {*request.fixturenames}:
        monkeypatch.setitem(PROTOCOLS, "completion", replace(PROTOCOLS["completion"], max_new_tokens=6))


@pytest.fixture
def pictures() -> None:
    """Pictures are drawn to the end in this test."""


@pytest.fixture(autouse=True)
def _blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everywhere else they are composed, and not drawn: that takes longer than what they are of."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(
            Figure, "savefig", lambda _, place, **options: Path(place).write_bytes(b"\x89PNG\r\n\x1a\n")
        )


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # not that of whoever runs the tests


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much on a busy machine


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float64 throughout.

    Several families cast to float32 inside (norms, softmax, GPT-J's attention scores). In a float64 model this throws digits away,
    and which ones depends on the last bit of what came in, so that no two batches agree to 1e-9. Here such casts keep
    float64, for the code under test and for the reference alike.
    """
    to = torch.Tensor.to

    def to_float64(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        def keep(value: object) -> object:
            exact = self.dtype == torch.float64 or not self.dtype.is_floating_point  # integers come in as positions
            return torch.float64 if value is torch.float32 and exact else value

        return to(self, *map(keep, args), **{key: keep(value) for key, value in kwargs.items()})

    softmax = torch.nn.functional.softmax

    def softmax_in_float64(input: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return softmax(input, *args, **{**kwargs, **({"dtype": None} if input.dtype == torch.float64 else {})})

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax_in_float64)
    monkeypatch.setattr(torch.Tensor, "to", to_float64)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: to_float64(self, torch.float32))
