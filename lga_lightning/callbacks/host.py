"""Where a language model sits in a module that is not ours."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from lga_lightning.exceptions import DataError

if TYPE_CHECKING:
    import lightning as L
    from transformers import PreTrainedModel


def language_model_of(module: L.LightningModule, path: str, tokenizer: str | None) -> tuple[PreTrainedModel, str]:
    """The language model in a module, and the name that its tokenizer is to be loaded by.

    Args:
        module: The module.
        path: Where the model is, as in ``"net.llm"``.
        tokenizer: Name of the tokenizer; None takes the model's ``config.name_or_path``.

    Raises:
        DataError: If there is nothing at that path.
    """
    try:
        llm = attrgetter(path)(module)
    except AttributeError as error:
        raise DataError(
            f"The language model was looked for at `model={path!r}`, but {type(module).__name__} has no such attribute "
            f"({error})."
        ) from error
    return llm, tokenizer or llm.config.name_or_path
