"""Load a causal language model and its tokenizer by name: a packaged model, a Hub id, a local folder, or a GGUF file."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lga_lightning.exceptions import ModelError
from lga_lightning.models.encoding import check_fast
from lga_lightning.models.gguf import dequantise, folder_for, is_gguf
from lga_lightning.models.packaged import PACKAGED, SMOLLM2
from lga_lightning.models.quantization import check_quantised, not_quantised, quantization_options
from lga_lightning.utils.io import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_NAME = SMOLLM2.name

NO_CLASS = "Unrecognized configuration class"
"""What transformers says where it has no model of the wanted kind."""

Made = TypeVar("Made")
DeviceMap = str | dict[str, int | str]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load_model(
    name: str | os.PathLike[str],
    dtype: str = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    quantization: str | None = None,
    device_map: DeviceMap | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen causal language model in eval mode, with its tokenizer.

    Args:
        name: ``"smollm2-135m"`` (the embedded model) or ``"gemma3-270m"``, a Hub id, a local folder, or a local GGUF file,
            which is dequantised once into the user's cache folder.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"float64"``, or ``"auto"`` for the dtype of the checkpoint.
        attn_implementation: Passed to transformers (``"sdpa"``, ``"eager"``, ...); None for its default.
        trust_remote_code: Whether code that comes with the model may run. Without it such a model is refused, and nobody is asked.
        quantization: What linear maps are kept in: ``"int8"`` or ``"int4"`` (torchao), ``"nf4"`` (bitsandbytes); None for what the
            checkpoint has. They compute in ``dtype``.
        device_map: How its modules are spread over devices, passed to transformers: ``"auto"``, or a device (``"cuda:1"``, ``"cpu"``,
            ``"disk"``) by name of a module. None leaves the model whole, on the CPU.

    Returns:
        The model, with ``requires_grad`` off everywhere, and its fast tokenizer.

    Raises:
        ModelError: If there is no such model, it is not a causal language model, its files lack some of its weights, it needs code
            of its own that may not run, it has no fast tokenizer, or it cannot be quantised so.
    """
    name = os.fspath(name)
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"`dtype` must be 'auto' or one of {sorted(DTYPES)}, got {dtype!r}.")
    tokenizer = load_tokenizer(name, trust_remote_code)
    try:
        source = resolve(name)
        settings = {
            "dtype": DTYPES.get(dtype, dtype),
            "attn_implementation": attn_implementation,
            "trust_remote_code": trust_remote_code,
            **({} if device_map is None else {"device_map": device_map}),
            **quantization_options(source, quantization, DTYPES.get(dtype)),
        }
        model, loaded = _of_either(lambda kind: kind.from_pretrained(source, output_loading_info=True, **settings))
    except ModelError:
        raise
    except Exception as error:  # whatever its readers say of broken files: SafetensorError, RuntimeError, KeyError, ...
        raise _not_found(name, error) if quantization is None else not_quantised(name, quantization, error) from error
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(
            f"The files of {name!r} lack {len(missing)} of the weights of a {type(model).__name__} ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}), which would be random. They may be incomplete, or of another class of model: "
            "download them anew, or name the causal language model that they belong to."
        )
    if quantization is not None:
        check_quantised(model, quantization)
    return model.requires_grad_(False).eval(), tokenizer


def _of_either(make: Callable[[Any], Made]) -> Made:
    """What is made of a causal language model's class, or of that of models for images and text, whose text decoder is what is looked at."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    try:
        return make(AutoModelForCausalLM)
    except ValueError as error:
        if NO_CLASS not in str(error):
            raise
        first = error
    try:
        return make(AutoModelForImageTextToText)
    except ValueError as error:
        if NO_CLASS in str(error):
            raise first from None
        raise


def empty_model(
    name: str, dtype: str = "float32", attn_implementation: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model that :func:`load_model` would load, with weights that take no memory and hold nothing.

    Args:
        name: As :func:`load_model` takes it.
        dtype: As there.
        attn_implementation: As there.
        trust_remote_code: As there.

    Raises:
        ModelError: If there is no such model, or it needs code of its own that may not run.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=trust_remote_code)
        with init_empty_weights(include_buffers=False):
            settings = {
                "dtype": DTYPES.get(dtype, config.dtype),
                "attn_implementation": attn_implementation,
                "trust_remote_code": trust_remote_code,
            }
            model = _of_either(lambda kind: kind.from_config(config, **settings))
    except ModelError:
        raise
    except Exception as error:  # as above
        raise _not_found(name, error) from error
    model.tie_weights()
    empty: PreTrainedModel = model.requires_grad_(False).eval()
    return empty


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has instructions for matrix products in a dtype. Without them they take tens of times as long.

    Args:
        dtype: A dtype of floating-point numbers.
    """
    half = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return dtype not in half or bool(getattr(torch.ops.mkldnn, half[dtype])())


def load_tokenizer(name: str | os.PathLike[str], trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model by the model's name, as :func:`load_model` takes it.

    Args:
        name: Name of the model.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ModelError: If there is no such model, it needs code of its own that may not run, or it has no fast tokenizer.
    """
    from transformers import AutoTokenizer

    name = os.fspath(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code)
    except ModelError:
        raise
    except Exception as error:  # as above
        raise _not_found(name, error) from error
    check_fast(tokenizer)
    return tokenizer


def resolve(name: str) -> str:
    """What transformers should load for a model's name: a local folder, or a Hub id.

    Raises:
        ModelError: If it is in a GGUF file, and that, transformers or the cache folder is not as it should be.
    """
    if is_gguf(name):
        gguf = user_path(name)
        return _cached(folder_for(gguf, cache_folder()), name, lambda target: dequantise(gguf, target))
    model = PACKAGED.get(name)
    if model is None:
        return _written_out(name)
    if model.version is None:
        return model.hub_id

    def convert(target: Path) -> None:
        with model.gguf() as gguf:
            dequantise(gguf, target)

    return _cached(cache_folder() / f"{name}-{model.version}", name, convert)


def _cached(target: Path, name: str, convert: Callable[[Path], None]) -> str:
    """The folder of a model that was a GGUF file, converted now if it is not there yet."""
    from filelock import FileLock
    from safetensors import SafetensorError

    version = importlib.metadata.version("transformers")
    if int(version.split(".")[0]) < 5:  # it puts a token in front of every text, and mistakes the end-of-text token
        hub = f", or name the same model on the Hub, {PACKAGED[name].hub_id!r}" if name in PACKAGED else ""
        raise ModelError(
            f"The model {name!r} is a GGUF file, whose tokenizer transformers reads rightly from version 5 on; installed is "
            f"{version}. Install `lga-lightning[embedded]`{hub}."
        )
    if not target.is_dir():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):
                if not target.is_dir():  # no other process was faster
                    convert(target)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"Could not convert the model {name!r} into the folder {str(target)!r}, which takes four bytes a parameter: "
                f"{error}. Make room there, or name another cache folder in the environment variable XDG_CACHE_HOME."
            ) from error
    return str(target)


def name_of(model: PreTrainedModel) -> str:
    """What to call a model in results: the name it was loaded by, or the folder that a GGUF file became.

    A model that was built from a config has its class's name.
    """
    name = model.config.name_or_path
    if name and Path(name).parent == cache_folder():
        return next((known for known in PACKAGED if Path(name).name.startswith(f"{known}-")), name)
    return name or type(model).__name__


def hub_name(name: str) -> str:
    """What others can load a model by: a packaged model's Hub id, the folder that a GGUF file became, any other name as it is."""
    gguf = user_path(name)
    if is_gguf(name) and gguf.is_file():  # else it is only called so
        return str(folder_for(gguf, cache_folder()))
    return PACKAGED[name].hub_id if name in PACKAGED else _written_out(name)


def _written_out(name: str) -> str:
    """A model's name, of a folder in a home folder (``~``) its path."""
    return str(user_path(name)) if name.startswith("~") else name


def cache_folder() -> Path:
    """The user's cache folder of this package: ``$XDG_CACHE_HOME/lga-lightning``, else ``~/.cache/lga-lightning``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lga-lightning"


def _not_found(name: str, error: Exception) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelError(
            f"The model {name!r} comes with Python code of its own, which is not run unless you ask for it. Read that code, and if you "
            "trust it, allow it with --model.trust_remote_code true (in Python: trust_remote_code=True)."
        )
    reason = str(error).strip().splitlines()
    advice = f" Without a Hub: `{PACKAGED[name].install}`." if name in PACKAGED and not PACKAGED[name].version else ""
    return ModelError(
        f"Could not load the model {name!r}. It must be {' or '.join(map(repr, PACKAGED))}, the id of a causal language model on "
        "the Hugging Face Hub, a local folder with its config.json, weights and tokenizer, or a local .gguf file; check the "
        f"spelling, and for a Hub id the network and your access.{advice} The loader said: "
        f"{reason[0] if reason else type(error).__name__}"
    )
