"""A locator's evidence on a batch of requests, and which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lga_lightning.data.batching import RequestBatch, RequestBatches
from lga_lightning.data.requests import EditRequest, check_subjects
from lga_lightning.exceptions import DataError, NonFiniteScoreError
from lga_lightning.locators import LayerLocator
from lga_lightning.locators.base import check_columns, knows_old_answer
from lga_lightning.locators.old_answers import with_old_targets
from lga_lightning.metrics import LayerScores
from lga_lightning.models.architecture import blocks
from lga_lightning.models.chat import ChatTokenizer
from lga_lightning.models.lengths import check_lengths
from lga_lightning.models.likelihood import input_device
from lga_lightning.utils.progress import with_bar
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SKIPPED = {
    1: "the model does not answer with target_old",
    2: "the model gives no answer, or already the new one",
    3: "no subject, and the locator works at one",
    4: "the model gives no answer to a question, or already the new one; --data.chat_template true asks as in a chat",
}


def prepare(
    locator: LayerLocator,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
) -> None:
    """Let a locator see all requests of a run that it can score, before the first is scored.

    Args:
        locator: How layers are scored.
        llm: A causal language model.
        tokenizer: Its tokenizer.
        requests: All requests.

    Raises:
        InvalidRequest: If a text is too long for the model, or the locator needs subjects, and no request has one.
        SettingError: If a column of the locator has a name that results need themselves.
    """
    check_columns(locator)
    check_lengths(llm, tokenizer, requests)
    accepted = [request for request in requests if locator.accepts(request)]
    if not accepted:
        check_subjects(requests, type(locator).__name__)
    locator.prepare(llm, tokenizer, accepted)


def score_requests(
    locator: LayerLocator,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: RequestBatch,
    only_known: bool = False,
) -> dict[str, Tensor]:
    """A locator's evidence on a batch, and which of its requests count.

    Args:
        locator: How layers are scored.
        llm: A causal language model with L blocks.
        tokenizer: Its tokenizer.
        batch: B requests.
        only_known: Leave out requests whose old answer the model does not give.

    Returns:
        ``index`` [B], ``values`` [B, C, L] with the locator's columns, and ``status`` [B]: 0 where the request counts,
        else a key of ``SKIPPED``; on any device.

    Raises:
        NonFiniteScoreError: If a score is not finite.
    """
    accepted = [row for row, request in enumerate(batch.requests) if locator.accepts(request)]
    found: Sequence[EditRequest | None] = [batch.requests[row] for row in accepted]
    if locator.uses_requests:
        found = with_old_targets(llm, tokenizer, [batch.requests[row] for row in accepted])
    usable = [(row, request) for row, request in zip(accepted, found, strict=True) if request is not None]
    status = torch.full((len(batch.requests),), 3)
    askable = tokenizer.chat_template is not None and not isinstance(tokenizer, ChatTokenizer)
    for row in accepted:
        status[row] = 4 if askable and batch.requests[row].prompt.rstrip().endswith("?") else 2
    values = torch.zeros(len(batch.requests), len(locator.columns), len(blocks(llm)))
    if usable and only_known and locator.costly:
        known = knows_old_answer(llm, tokenizer, [request for _, request in usable]).tolist()
        status[[row for row, _ in usable]] = 1
        usable = [pair for pair, knows in zip(usable, known, strict=True) if knows]
    if usable:
        rows = [row for row, _ in usable]
        evidence = locator.score(llm, tokenizer, [request for _, request in usable])
        values = values.to(evidence.values)
        values[rows] = evidence.values.detach()
        status[rows] = (~evidence.known).long().cpu() if only_known or locator.only_known else 0
    check_finite(values[:, 0], batch.requests, llm.dtype)
    return {"index": torch.tensor(batch.index), "values": values, "status": status}


def score_all(
    locator: LayerLocator,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    batch_size: int = 8,
    only_known: bool = False,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | None = None,
    show: bool = False,
) -> LayerScores:
    """A locator's evidence on all requests, outside of any training loop.

    Args:
        locator: How layers are scored.
        llm: A causal language model; it is left as it was.
        tokenizer: Its tokenizer.
        requests: All requests, also those of the other processes.
        batch_size: Requests a batch.
        only_known: Whether to leave out requests whose old answer the model does not give.
        rank: Number of this process.
        world_size: Number of processes, each of which scores its share.
        device: Where the scores are kept; the model's device by default.
        show: Whether to show progress, where there is a terminal.

    Returns:
        The scores of this process; their ``compute`` puts those of all processes together.

    Raises:
        DataError: If there is no request.
        SettingError: If ``batch_size`` is below 1, or a column of the locator has a name that results need themselves.
        NonFiniteScoreError: If a score is not finite.
    """
    if not requests:
        raise DataError("There is no request to score layers by. Give at least one.")
    check_at_least_one(batch_size=batch_size)
    prepare(locator, llm, tokenizer, requests)
    device = device or input_device(llm)
    scores = LayerScores().to(device)
    batches = RequestBatches(requests, batch_size, rank, world_size)
    for batch in with_bar([*batches], "Scoring layers") if show else batches:
        rows = score_requests(locator, llm, tokenizer, batch, only_known)
        scores.update(**{name: tensor.to(device) for name, tensor in rows.items()})
    return scores


def check_finite(scores: Tensor, requests: Sequence[EditRequest], dtype: torch.dtype) -> None:
    """Refuse scores that are NaN or infinite.

    Args:
        scores: [B, L] scores.
        requests: B requests.
        dtype: Of the model, for the advice.

    Raises:
        NonFiniteScoreError: Names the first layer and request.
    """
    bad = (~scores.isfinite()).nonzero()
    if len(bad):
        row, layer = bad[0].tolist()
        request = requests[row]
        raise NonFiniteScoreError(
            f"The score of layer {layer} for the request {request.prompt!r} ({request.id or 'no id'}) is "
            f"{scores[row, layer].item()}, so no layer can be chosen. The model computes in {dtype}: "
            + (
                "try --model.dtype bfloat16 or float32, whose range is wider."
                if dtype == torch.float16
                else "check its weights for NaN (a broken download or conversion), and the request's text."
            )
        )
