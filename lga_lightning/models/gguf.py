"""GGUF files: dequantised once into the cache, as a plain checkpoint that transformers loads in a second."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from lga_lightning.exceptions import ModelError
from lga_lightning.utils.io import user_path, write_folder
from lga_lightning.utils.progress import hidden

log = logging.getLogger(__name__)

NAMED = 3  # missing weights that an error names


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a local GGUF file."""
    return name.lower().endswith(".gguf") and not user_path(name).is_dir()


def folder_for(gguf: Path, cache: Path) -> Path:
    """The folder in a cache that a GGUF file is dequantised to; another one when the file has changed.

    Args:
        gguf: The file.
        cache: The cache.

    Raises:
        ModelError: If there is no such file.
    """
    try:
        state = gguf.stat()
    except OSError as error:
        raise ModelError(
            f"There is no GGUF file {str(gguf)!r} ({error.strerror}). A model's name that ends in .gguf is the path of a "
            "local file; check it."
        ) from error
    made_of = f"{gguf.resolve()} {state.st_size} {state.st_mtime_ns}"
    return cache / "gguf" / f"{gguf.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def dequantise(gguf: Path, target: Path) -> None:
    """Write a GGUF model as plain float32 safetensors with its tokenizer; the folder appears whole or not at all.

    Args:
        gguf: The file, of any quantisation that transformers reads.
        target: The folder.

    Raises:
        ModelError: If the package gguf is missing, transformers cannot read the file, or weights are missing there.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.warning("Converting %s, once (about half a minute for a small model) ...", gguf.name)
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with _bars_for_terminals():
            quantised, loaded = AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.float32, output_loading_info=True
            )
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except ImportError as error:
        raise ModelError(
            f"Reading {gguf.name} needs the package gguf. Install it with `pip install 'lga-lightning[embedded]'`. "
            f"The reader said: {error}"
        ) from error
    except Exception as error:  # whatever its reader says of a broken file: struct.error, IndexError, ...
        raise ModelError(
            f"Could not read the GGUF file {str(gguf)!r}: it must hold a causal language model of an architecture and a "
            f"quantisation that transformers reads, and be whole. The reader said: {type(error).__name__}: {error}"
        ) from error
    missing = sorted(loaded["missing_keys"])
    if missing:  # transformers fills them with random numbers
        raise ModelError(
            f"The GGUF file {str(gguf)!r} lacks {len(missing)} of the model's weights ({', '.join(missing[:NAMED])}"
            f"{', ...' if len(missing) > NAMED else ''}). If it is one of several files of a model, join them with llama.cpp's "
            "gguf-split first; else get it anew, or another conversion of the model."
        )
    config = quantised.config
    # transformers refuses to save what it read from GGUF: the weights are plain by now, only the config says otherwise
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), assign=True)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    write_folder(target, write)


@contextmanager
def _bars_for_terminals() -> Iterator[None]:
    """Keep the bar of transformers' reader, which knows no switch, out of pipes and files."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=hidden())
    try:
        yield
    finally:
        reader.tqdm = bar
