"""The LightningModule: attribution in ``fit``, edits and their scores in ``validate`` and ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from torch import Tensor

from lga_lightning.data.batching import RequestBatch
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, WeightDelta
from lga_lightning.editing.base import EditTargets
from lga_lightning.editing.session import EditSession
from lga_lightning.evaluation.evaluator import EvaluationConfig, evaluate
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.locators import LayerLocator, LayerSweep, ValueGradient
from lga_lightning.locators.score_requests import score_requests
from lga_lightning.models.architecture import blocks
from lga_lightning.models.chat import ChatTokenizer, plain
from lga_lightning.models.loading import load_model
from lga_lightning.models.structure import Structure, register_structure
from lga_lightning.results.layers import LayerSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Mode = Literal["independent", "batch", "sequential"]


class LGAModule(L.LightningModule):
    """Wraps a frozen language model: ``fit`` scores its layers, ``validate`` and ``predict`` edit some of them.

    Nothing is trained. The language model is loaded in ``configure_model``; to use one that you have, set ``llm`` and
    ``tokenizer`` before the trainer runs.

    Args:
        model_name: ``smollm2-135m`` for the embedded model, else a Hub id or a local folder.
        layer: The block to edit: a number, several (``4-8``, a list, or ``all``), ``golden`` (what ``fit`` left in
            ``--trainer.default_root_dir``; a window around it for MEMIT, AlphaEdit and PMET), ``default`` (what is published for the
            model and the method, or a choice by depth), or the path of an attribution.json.
        locator: How layers are scored; ValueGradient by default.
        editor: How facts are edited; R-ROME by default.
        mode: ``independent`` edits each request alone, on the unedited model; ``batch`` all together; ``sequential`` in the
            order of the data, a batch of ``--data.batch_size`` at a time, with what was edited before in place. The last two
            are scored when all is edited. By default ``independent`` in ``validate`` and ``batch`` in ``predict``.
        only_known: Leave out requests whose old answer the model does not give greedily, in ``fit``.
        dtype: Of the weights; ``auto`` takes the checkpoint's.
        attn_implementation: Passed to transformers.
        structure: Where the parts of the model are, for a family that the general rules do not fit.
    """

    def __init__(
        self,
        model_name: str = "smollm2-135m",
        layer: int | str | list[int] = "golden",
        locator: LayerLocator | None = None,
        editor: EditMethod | None = None,
        mode: Mode | None = None,
        only_known: bool = False,
        dtype: Literal["float32", "bfloat16", "float16", "float64", "auto"] = "float32",
        attn_implementation: str | None = None,
        structure: Structure | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold no weights
        self.model_name = model_name
        self.layer = LayerSpec.parse(layer)
        self.editor = editor or RROME()
        self.take_locator(locator or ValueGradient())
        self.given_mode = mode
        self.mode: Mode = mode or "independent"
        self.only_known = only_known
        self.dtype_name = dtype
        self.attn_implementation = attn_implementation
        self.structure = structure
        self.llm: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.chat_template = False
        self._layers = self.layer
        self.edited_layers: list[int] = []
        self.layer_source = ""
        self.evaluation = EvaluationConfig()
        self.deltas: list[WeightDelta] = []
        self.drift: list[Drift] = []
        self._run: EditSession | None = None
        self._sought: list[EditTargets] = []

    def take_locator(self, locator: LayerLocator) -> None:
        """Score layers by another locator from now on; a sweep edits as the module does, if it does not say how."""
        self.locator = locator
        if isinstance(locator, LayerSweep):
            locator.editor = locator.editor or self.editor

    def configure_model(self) -> None:
        """Load the language model, once."""
        if self.llm is None:
            self.llm, self.tokenizer = load_model(self.model_name, self.dtype_name, self.attn_implementation)
        tokenizer = plain(self.tokenizer)
        self.tokenizer = ChatTokenizer(tokenizer) if self.chat_template else tokenizer  # as the data has it, run by run
        if self.structure is not None:
            register_structure(self.llm.config.model_type, self.structure)
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
        if stage in ("validate", "predict"):
            self.mode = self.given_mode or ("independent" if stage == "validate" else "batch")
            self._layers = self.layer.find(Path(self.trainer.default_root_dir), self.model_name)

    def on_validation_start(self) -> None:
        """Begin editing anew."""
        llm, tokenizer = self.language_model
        self.edited_layers, self.layer_source = self._layers.layers_for(self.editor, llm)
        self._run = EditSession(self.editor, llm, tokenizer, self.edited_layers)
        self.deltas, self.drift, self._sought = [], [], []

    def on_predict_start(self) -> None:
        """Begin editing anew."""
        self.on_validation_start()

    def validation_step(self, batch: RequestBatch, batch_idx: int) -> dict[str, Any]:
        """Edit a batch of requests and score it; no weight stays touched.

        In the modes ``batch`` and ``sequential`` every process makes all edits, and the last step scores this process's share
        of all requests; what comes in between gives nothing.

        Returns:
            ``index`` [B] and ``results``, a list for each of the B requests: what became of its prompts, with the fields of
            :class:`~lga_lightning.evaluation.results.EvalResult`. The edits are in ``deltas``.
        """
        if self.mode != "independent":
            return self._edit_together(batch, batch_idx)
        llm, tokenizer = self.language_model
        self.deltas = self.editor.compute_each(llm, tokenizer, batch.requests, self.edited_layers)
        return self._score(batch.index, batch.requests, self.deltas)

    def predict_step(self, batch: RequestBatch, batch_idx: int) -> dict[str, Any]:
        """As :meth:`validation_step`."""
        return self.validation_step(batch, batch_idx)

    def _edit_together(self, batch: RequestBatch, batch_idx: int) -> dict[str, Any]:
        if self._run is None:
            raise RuntimeError("on_validation_start has not run. Let a Trainer call the steps.")
        llm, tokenizer = self.language_model
        loaders = (
            self.trainer.num_val_batches if self.trainer.state.fn == "validate" else self.trainer.num_predict_batches
        )
        last = batch_idx == int(loaders[0]) - 1
        if self.mode == "batch":
            self._sought.append(self.editor.optimize_targets(llm, tokenizer, batch.requests, self.edited_layers))
            if last:
                everything = type(self._sought[0]).join(self._sought)
                for count in milestones(len(everything.requests)):
                    run = EditSession(self.editor, llm, tokenizer, self.edited_layers)
                    run.edit_targets(everything.first(count))
                    self._note_drift(run)
                self._run.edit_targets(everything)
        else:
            before = len(self._run.requests)
            self._run.edit(batch.requests, len(batch.requests))
            after = len(self._run.requests)
            if not last and any(before < point <= after for point in milestones(10 * after)):
                self._note_drift(self._run)
        if not last:
            return {"index": torch.zeros(0, dtype=torch.long, device=self.device), "results": []}
        self.deltas = [self._run.delta]
        mine = list(range(self.trainer.global_rank, len(self._run.requests), self.trainer.world_size))
        requests = [self._run.requests[i] for i in mine]
        return self._score(mine, requests, [self._run.delta] * len(mine))

    def _score(
        self, index: Sequence[int], requests: Sequence[EditRequest], deltas: Sequence[WeightDelta]
    ) -> dict[str, Any]:
        results = evaluate(*self.language_model, requests, deltas, self.evaluation)
        records = [[asdict(result) for result in of_request] for of_request in results]
        return {"index": torch.tensor(index, dtype=torch.long, device=self.device), "results": records}

    def _note_drift(self, run: EditSession) -> None:
        """How the requests edited so far fare, by teacher-forced scores."""
        quick = replace(self.evaluation, generate=False, fluency=False)
        outcomes = evaluate(*self.language_model, run.requests, [run.delta] * len(run.requests), quick)
        self.drift.append(Drift(len(run.requests), run.relative_norms(), outcomes))

    @property
    def change(self) -> dict[int, float]:
        """By layer, the size of all edits made together, relative to the weight."""
        return self._run.relative_norms() if self._run else {}

    @property
    def language_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The language model and its tokenizer."""
        if self.llm is None or self.tokenizer is None:
            raise RuntimeError("The language model is not loaded yet. Call configure_model(), or let a Trainer do it.")
        return self.llm, self.tokenizer


@dataclass(frozen=True)
class Drift:
    """A point of the drift curve.

    Attributes:
        edits: How many edits are in place.
        change: By layer, the Frobenius norm of the change over that of the weight.
        outcomes: What became of the questions about the facts edited so far.
    """

    edits: int
    change: dict[int, float]
    outcomes: list[list[EvalResult]]


def milestones(count: int) -> list[int]:
    """The numbers of edits below ``count`` at which drift is looked at: 1, 10, 100, ...

    Example:
        >>> milestones(1000)
        [1, 10, 100]
    """
    return [10**power for power in range(len(str(count))) if 10**power < count]
