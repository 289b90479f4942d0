"""Where a language model sits in a module that is not ours, and callbacks that need one that is."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.models.loading import load_tokenizer, name_of

if TYPE_CHECKING:
    import lightning as L
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def language_model_of(
    module: L.LightningModule, path: str, tokenizer: str | PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The language model in a module, its tokenizer, and what to call it in results.

    Args:
        module: The module.
        path: Where the model is, as in ``"net.llm"``.
        tokenizer: The tokenizer, or the name to load it by; None takes the model's ``config.name_or_path``.

    Raises:
        DataError: If there is no model of transformers at that path, or no tokenizer can be found for what is there.
    """
    try:
        llm = attrgetter(path)(module)
    except AttributeError as error:
        raise DataError(
            f"The language model was looked for at `model={path!r}`, but {type(module).__name__} has no such attribute "
            f"({error}). Say where your module keeps it, as in `model='net.llm'`."
        ) from error
    if not hasattr(getattr(llm, "config", None), "name_or_path"):
        raise DataError(
            f"The language model was looked for at `model={path!r}`, where {type(module).__name__} has a {type(llm).__name__}, "
            "which is no model of transformers when `fit` starts. Say where your module keeps it, as in `model='net.llm'`."
        )
    if tokenizer is None and not llm.config.name_or_path:
        raise DataError(
            f"The language model at `model={path!r}` was not loaded by a name, so its tokenizer cannot be either. Give the "
            "tokenizer, or the name to load it by, as `tokenizer`."
        )
    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer or llm.config.name_or_path)
    return llm, tokenizer, name_of(llm)


def check_own_module(callback: L.Callback, module: L.LightningModule) -> None:
    """Refuse a module in which there is nothing to collect.

    Raises:
        SettingError: If the module is no :class:`~lga_lightning.LGAModule`.
    """
    if not hasattr(type(module), "finish_edits"):  # LGAModule, whose room is above this one
        raise SettingError(
            f"{type(callback).__name__} collects what LGAModule finds out, and {type(module).__name__} is none. In a module of "
            "your own, LayerAttribution(proxies=..., model=...) scores the layers and ApplyEdits(requests=..., model=...) edits."
        )
