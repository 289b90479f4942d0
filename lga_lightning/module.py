"""The LightningModule: attribution in ``fit``, edits and their scores in ``validate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from torch import Tensor

from lga_lightning.chat import ChatTokenizer, plain
from lga_lightning.data.batches import RequestBatch
from lga_lightning.editing import RROME, EditMethod
from lga_lightning.errors import NonFiniteScoreError
from lga_lightning.evaluation import Evaluation, evaluate
from lga_lightning.families import blocks, check_layer
from lga_lightning.generation import greedy_answers
from lga_lightning.loading import load_model
from lga_lightning.locators import LGA, LayerLocator, LayerSweep
from lga_lightning.requests import EditRequest
from lga_lightning.results import find_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SKIPPED = {1: "the model does not answer with target_old", 2: "the model gives no answer, or already the new one"}


class LGAModule(L.LightningModule):
    """Wraps a frozen language model: ``fit`` scores its layers, ``validate`` edits one of them.

    Nothing is trained. The language model is loaded in ``configure_model``; to use one that you have, set ``llm`` and
    ``tokenizer`` before the trainer runs.

    Args:
        model_name: ``smollm2-135m`` for the embedded model, else a Hub id or a local folder.
        layer: The block to edit: a number, ``golden`` (what ``fit`` left in ``--trainer.default_root_dir``) or the path of
            an attribution.json.
        locator: How layers are scored; LGA by default.
        editor: How facts are edited; R-ROME by default.
        only_known: Leave out requests whose old answer the model does not give greedily, in ``fit``.
        dtype: Of the weights; ``auto`` takes the checkpoint's.
        attn_implementation: Passed to transformers.
    """

    def __init__(
        self,
        model_name: str = "smollm2-135m",
        layer: int | str = "golden",
        locator: LayerLocator | None = None,
        editor: EditMethod | None = None,
        only_known: bool = False,
        dtype: Literal["float32", "bfloat16", "float16", "float64", "auto"] = "float32",
        attn_implementation: str | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold no weights
        self.model_name = model_name
        self.layer = layer
        self.locator = locator or LGA()
        self.editor = editor or RROME()
        if isinstance(self.locator, LayerSweep):
            self.locator.editor = self.locator.editor or self.editor
        self.only_known = only_known
        self.dtype_name = dtype
        self.attn_implementation = attn_implementation
        self.llm: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.chat_template = False
        self.edited_layer = -1
        self.layer_source = ""
        self.evaluation = Evaluation()

    def configure_model(self) -> None:
        """Load the language model, once."""
        if self.llm is None:
            self.llm, self.tokenizer = load_model(self.model_name, self.dtype_name, self.attn_implementation)
        tokenizer = plain(self.tokenizer)
        self.tokenizer = ChatTokenizer(tokenizer) if self.chat_template else tokenizer  # as the data has it, run by run
        blocks(self.llm)  # an unknown architecture fails here, before any work

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Empty: the language model is frozen and has files of its own."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out how far the loops are: a resumed run leaves out the requests that are done, in any batches."""
        checkpoint.pop("loops", None)

    def on_train_start(self) -> None:
        """Let the locator see all requests before the first is scored."""
        self.locator.prepare(*self.language_model, self.trainer.datamodule.loaded.requests)  # type: ignore[attr-defined]

    def training_step(self, batch: RequestBatch, batch_idx: int) -> dict[str, Tensor]:
        """Score every layer for every request of the batch.

        Returns:
            ``index`` [B], ``values`` [B, C, L] with the locator's columns, and ``status`` [B]: 0 where the request counts,
            else a key of ``SKIPPED``.

        Raises:
            NonFiniteScoreError: If a score is not finite.
        """
        llm, tokenizer = self.language_model
        rows = score_requests(self.locator, llm, tokenizer, batch, self.only_known)
        return {name: tensor.to(self.device) for name, tensor in rows.items()}

    def setup(self, stage: str) -> None:
        """Find out how to ask and which layer to edit, before the model is loaded."""
        self.chat_template = getattr(getattr(self.trainer, "datamodule", None), "chat_template", False)
        if stage == "validate":
            root = Path(self.trainer.default_root_dir)
            (self.edited_layer,), self.layer_source = find_layers(self.layer, root, self.model_name)

    def on_validation_start(self) -> None:
        """Check that the model has the layer."""
        llm, _ = self.language_model
        check_layer(llm, self.edited_layer)

    def validation_step(self, batch: RequestBatch, batch_idx: int) -> dict[str, Any]:
        """Edit every request of the batch on its own and score it; no weight is touched.

        Returns:
            ``index`` [B] and ``outcomes``, a list for each of the B requests: what became of its questions.
        """
        llm, tokenizer = self.language_model
        deltas = self.editor.compute_each(llm, tokenizer, batch.requests, self.edited_layer)
        outcomes = evaluate(llm, tokenizer, batch.requests, deltas, self.evaluation)
        return {"index": torch.tensor(batch.index, device=self.device), "outcomes": outcomes}

    @property
    def language_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The language model and its tokenizer."""
        if self.llm is None or self.tokenizer is None:
            raise RuntimeError("The language model is not loaded yet. Call configure_model(), or let a Trainer do it.")
        return self.llm, self.tokenizer


def with_old_targets(
    llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> list[EditRequest | None]:
    """Requests with an old target: theirs, or the model's greedy answer. None where that gives no pair of answers.

    Args:
        llm: A causal language model.
        tokenizer: Its tokenizer.
        requests: The requests.
    """
    open_rows = [row for row, request in enumerate(requests) if request.target_old is None]
    completed: list[EditRequest | None] = list(requests)
    if open_rows:
        answers = greedy_answers(llm, tokenizer, [requests[row].prompt for row in open_rows])
        for row, answer in zip(open_rows, answers, strict=True):
            usable = answer and answer != requests[row].target_new.strip()
            completed[row] = replace(requests[row], target_old=answer) if usable else None
    return completed


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
    requests = with_old_targets(llm, tokenizer, batch.requests)
    usable = [row for row, request in enumerate(requests) if request is not None]
    status = torch.full((len(requests),), 2)
    values = torch.zeros(len(requests), len(locator.columns), len(blocks(llm)))
    if usable:
        evidence = locator.score(llm, tokenizer, [request for request in requests if request is not None])
        values = values.to(evidence.values)
        values[usable] = evidence.values.detach()
        status[usable] = (~evidence.known).long().cpu() if only_known or locator.only_known else 0
    check_finite(values[:, 0], batch.requests, llm.dtype)
    return {"index": torch.tensor(batch.index), "values": values, "status": status}


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
