"""A judge on this machine: a language model that is loaded here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lga_lightning.evaluation.judge import PROMPT, REPLY_TOKENS, Judge
from lga_lightning.exceptions import JudgeError
from lga_lightning.models.cached_prompts import CachedPrompts
from lga_lightning.models.chat import as_asked
from lga_lightning.models.loading import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16  # prompts at a time


class ModelJudge(Judge):
    """A causal language model that replies greedily, in its chat template where it chats.

    Args:
        name: What :func:`~lga_lightning.load_model` takes: a packaged model, a Hub id, or a local folder or file.
        dtype: Dtype of its weights; ``auto`` takes the checkpoint's.
        device: Where it computes; None for a GPU if there is one.
    """

    def __init__(self, name: str, dtype: str = "auto", device: str | None = None) -> None:
        super().__init__()
        self.name, self.dtype, self.device = name, dtype, device
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def replies(self, prompts: Sequence[str]) -> Iterator[str]:
        """Greedy replies to prompts, batch by batch.

        Args:
            prompts: The prompts.

        Raises:
            JudgeError: If the device has no room for it.
            ModelError: If there is no such model.
        """
        try:
            for start in range(0, len(prompts), BATCH):
                yield from self._ask(prompts[start : start + BATCH])
        except torch.OutOfMemoryError as error:
            raise JudgeError(
                f"The judge {self.name!r} does not fit beside the edited model: {error}. Take a smaller one, or let one on "
                "another machine judge (--edits.judge http://HOST:PORT/v1)."
            ) from error

    def settings(self) -> dict[str, Any]:
        """Name, dtype and prompt."""
        return {"model": self.name, "dtype": self.dtype, "prompt": PROMPT}

    def _ask(self, prompts: Sequence[str]) -> list[str]:
        if self._loaded is None:
            model, tokenizer = load_model(self.name, self.dtype)
            device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            model.to(device)  # type: ignore[arg-type]  # transformers wraps the method
            self._loaded = model, as_asked(model, tokenizer)
        texts = CachedPrompts(*self._loaded, prompts).continuations(REPLY_TOKENS, lambda row, text: False)
        return [text.strip() for text in texts]
