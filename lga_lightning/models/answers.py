"""What a model makes of answers, token by token: of long ones, whose logits would fill the memory, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lga_lightning.models.encoding import IGNORE, EncodedAnswers
from lga_lightning.models.hooks import kept_output
from lga_lightning.models.likelihood import answer_logits, input_device, mean_nll, token_nll, without_peft
from lga_lightning.models.partial_passes import covered
from lga_lightning.utils.pieces import row_by_row
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_LOGITS = 2**27
"""Logits that are held at once, at most: half a GiB in float32."""
PIECE = 2**26
"""Logits of a piece, where there are more."""


@dataclass(frozen=True)
class AnswerReading:
    """What a model makes of N answers of up to A tokens, each token given the prompt and the tokens before it.

    Attributes:
        token_nll: [N, A] negative log-likelihoods of the tokens in nats, 0 on padding.
        predicted: [N, A] the most likely tokens; on padding, any.
        first: [N, V] the logits that predict the first token.
        labels: [N, A] the tokens, ``IGNORE`` on padding.
    """

    token_nll: Tensor
    predicted: Tensor
    first: Tensor
    labels: Tensor

    @property
    def nll(self) -> Tensor:
        """[N] mean negative log-likelihood of each answer, in nats a token."""
        return mean_nll(self.token_nll, self.labels)


def read_answers(
    model: PreTrainedModel, batch: EncodedAnswers, logits: Callable[[Tensor], Tensor] | None = None
) -> AnswerReading:
    """Read answers; the loss has a gradient where the model's outputs have one.

    Where all logits are more than ``MOST_LOGITS``, the pass gives those of the first tokens alone. The others go the model's own way from
    the last hidden states to the logits in pieces, each of which leaves its gradient behind.

    Args:
        model: A causal language model.
        batch: N rows of prompt and answer, on the model's device.
        logits: Runs the rows in another way than as a whole; takes positions [N, P], and gives the logits there, [N, P, V].
    """
    run, labels = logits or partial(answer_logits, model, batch), batch.labels
    if labels.numel() * _vocabulary(model) <= MOST_LOGITS:
        whole = run(batch.positions)
        return AnswerReading(token_nll(whole, labels), whole.detach().argmax(-1), whole[:, 0], labels)
    with kept_output(_decoder(model)) as outputs:
        first = run(batch.positions[:, :1])[:, 0]
    (output,) = outputs
    hidden, counted, step = output[0], labels != IGNORE, tokens_at_once(model)
    states = hidden[counted.nonzero()[:, 0].to(hidden.device), batch.positions[counted].to(hidden.device)]
    pieces = [
        row_by_row(partial(_read_behind, model, output, tokens), part)
        for part, tokens in zip(states.split(step), labels[counted].split(step), strict=True)
    ]
    found = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    nll, predicted = (part.new_zeros(counted.shape).masked_scatter(counted.to(part.device), part) for part in found)
    return AnswerReading(nll, predicted, first, labels)


def tokens_at_once(model: PreTrainedModel) -> int:
    """Number of tokens whose logits make a piece."""
    return max(1, PIECE // _vocabulary(model))


def _decoder(model: PreTrainedModel) -> nn.Module:
    """What gives the last hidden states, which the model itself makes logits of."""
    base = without_peft(model).base_model
    inner: nn.Module = getattr(base, "model", base)  # Llama 4 takes itself for its base
    return getattr(inner, "decoder", inner)  # OPT runs this part of it alone


def _vocabulary(model: PreTrainedModel) -> int:
    size: int = model.config.get_text_config().vocab_size
    return size


def _read_behind(model: PreTrainedModel, output: Any, tokens: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods of tokens [T], and the most likely ones, by hidden states [T, d] as its decoder gives them."""
    rows = states.unsqueeze(0)
    given = (rows, *output[1:]) if isinstance(output, tuple) else type(output)(**{**output, "last_hidden_state": rows})
    with covered(_decoder(model), lambda *args, **kwargs: given):
        ids = torch.zeros(1, 1, dtype=torch.long, device=input_device(model))
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    logits = at_least_float32(logits[0])
    return token_nll(logits, tokens), logits.detach().argmax(-1)
