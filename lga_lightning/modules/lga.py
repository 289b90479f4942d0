"""The LightningModule: attribution in ``fit``, edits and their scores in ``validate`` and ``predict``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from lga_lightning.callbacks import AdapterWriter, EditReport, ScoreCollector
from lga_lightning.callbacks.edit_collector import EditCollector
from lga_lightning.callbacks.shares import check_dealing, share_of
from lga_lightning.data.batching import RequestBatch, RequestBatches, collate_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod, Guard, Guarded
from lga_lightning.editing.governor import Governor
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.lengths import check_asked_lengths
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators import EditForecast, LayerLocator
from lga_lightning.locators.score_requests import prepare, score_requests
from lga_lightning.models.chat import ChatTokenizer, plain
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.loading import DeviceMap
from lga_lightning.models.quantization import Quantization
from lga_lightning.models.structure import Structure
from lga_lightning.models.weights import weights_mark
from lga_lightning.modules.datamodule import EditDataModule, RunData
from lga_lightning.modules.edit_schedule import EditSchedule, ScoredEdits
from lga_lightning.modules.frozen import Dtype, FrozenModule
from lga_lightning.modules.run_state import RESULTS_FILE, STATE_FILE, RunState, fingerprint_of
from lga_lightning.modules.schedules import SCHEDULES, Mode
from lga_lightning.results.attribution import LocatorResult
from lga_lightning.results.layer_spec import LayerSpec
from lga_lightning.utils.dealing import AmongProcesses, Deal, alone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


COLLECTORS: dict[str, type[ScoreCollector] | type[EditCollector]] = {
    "fit": ScoreCollector,
    "validate": EditReport,
    "predict": AdapterWriter,
}


class LGAModule(FrozenModule):
    """Wraps a frozen language model: ``fit`` scores its layers, ``validate`` and ``predict`` edit some of them.

    Nothing is trained, and one epoch is all that ``fit`` takes, whatever the trainer says. Batches are lists of
    :class:`~lga_lightning.EditRequest`: from :class:`~lga_lightning.EditDataModule`, or from any ``DataLoader`` over a list of
    requests (with ``collate_fn=list`` where its workers are spawned), in which the same request twice counts once. Validation
    in the midst of ``fit`` is left out. The callbacks that collect results and write files (:class:`~lga_lightning.callbacks.ScoreCollector`,
    :class:`~lga_lightning.callbacks.EditReport`, :class:`~lga_lightning.callbacks.AdapterWriter`) join a trainer that has none.

    Args:
        model_name: ``smollm2-135m`` for the embedded model, ``gemma3-270m``, a Hub id, a local folder or a local .gguf file, which
            is loaded when a run begins. With ``model``, what to call that in results and adapters; None takes its own name.
        layer: The block to edit: a number, several (``4-8``, or a list), ``all``, ``golden`` (what ``fit`` left in
            ``--trainer.default_root_dir``; a window around it for MEMIT, AlphaEdit, PMET and CrispEdit), ``atlas`` (what was measured for the model
            and the method, see ``docs/atlas.md``), ``default`` (what is published for them, or a choice by depth), or the path of an attribution.json.
        locator: How layers are scored; EditForecast by default.
        editor: How facts are edited; R-ROME by default.
        mode: ``independent`` edits each request alone, on the unedited model; ``batch`` all together; ``sequential`` in the
            order of the data, a batch of ``--data.batch_size`` at a time, with what was edited before in place. The last two
            are scored when all is edited. By default ``independent`` in ``validate`` and ``batch`` in ``predict``.
        only_known: Whether ``fit`` leaves out requests whose old answer the model does not give greedily.
        dtype: Dtype of the weights that are loaded; ``auto`` takes the checkpoint's.
        attn_implementation: Attention that transformers is to use for a model that is loaded.
        structure: Where blocks and matrices are in a model of an unusual architecture (``docs/extending/structure.md``).
        trust_remote_code: Whether code that comes with a model that is loaded may run; without it such a model is refused.
        model: A language model that you have, instead of one to load.
        tokenizer: Its fast tokenizer; None loads the one of the model's name.
        evaluation: What is measured of edits; None takes what the run's :class:`~lga_lightning.callbacks.EditReport` or
            :class:`~lga_lightning.callbacks.AdapterWriter` says.
        guards: What every edit must spare of the unedited weights, and every layer is scored with (``docs/editing.md``).
        governor: Limits at which the mode ``sequential`` stops, with the edits of the last look within them.
        quantization: What the linear maps of a model that is loaded are kept in: ``int8`` or ``int4`` (torchao), ``nf4`` (bitsandbytes); None for
            what the checkpoint has.
        device_map: How the modules of a model that is loaded are spread over devices, in one process: ``auto``, or a device by name of a
            module (``docs/scaling.md``).
        activation_checkpointing: Whether blocks run again on the way back, instead of keeping their activations: less memory, and a third
            more time.

    Attributes:
        llm: The language model, once it is loaded.
        tokenizer: Its tokenizer.
        edited_layers: The blocks that are edited, once ``validate`` or ``predict`` has begun.
        layer_source: Where they come from, in words.
        schedule: The edits of the present run.
        run_state: Where they leave their state, so that a run that is cut off can go on; None in modes that leave none.
        scored: Positions of the requests that ``fit`` need not score, since it resumes a run that has.
        result: The golden layer that ``fit`` has found, with all that led to it.

    Example:
        >>> from lightning import Trainer
        >>> from torch.utils.data import DataLoader
        >>> from lga_lightning import LGAModule
        >>> def golden_layer(model, tokenizer, requests):  # a model and a list of EditRequests that you have
        ...     module = LGAModule(model=model, tokenizer=tokenizer)
        ...     trainer = Trainer()
        ...     trainer.fit(module, DataLoader(requests, batch_size=8))
        ...     return module.result.golden_layer
    """

    def __init__(
        self,
        model_name: str | None = None,
        layer: int | str | list[int] = "golden",
        locator: LayerLocator | None = None,
        editor: EditMethod | None = None,
        mode: Mode | None = None,
        only_known: bool = False,
        dtype: Dtype = "float32",
        attn_implementation: str | None = None,
        structure: Structure | None = None,
        trust_remote_code: bool = False,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        evaluation: EvaluationConfig | None = None,
        guards: Sequence[Guard] = (),
        governor: Governor | None = None,
        quantization: Quantization | None = None,
        device_map: DeviceMap | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            model_name,
            dtype,
            attn_implementation,
            structure,
            trust_remote_code,
            model,
            tokenizer,
            quantization,
            device_map,
            activation_checkpointing,
        )
        if mode is not None and mode not in SCHEDULES:
            raise SettingError(f"`mode` must be one of {list(SCHEDULES)}, got {mode!r}.")
        if governor is not None and mode != "sequential":
            raise SettingError(
                f"`governor` watches edits that are made one group after the other, and `mode` is {mode!r}. Take --model.mode sequential, "
                "or leave the governor out."
            )
        self.editor = Guarded(editor or RROME(), guards) if guards else editor or RROME()
        self.locator = (locator or EditForecast()).for_editor(self.editor)
        self.layer = LayerSpec.parse(layer)
        self.mode = mode
        self.only_known = only_known
        self.governor = governor
        self.edited_layers: list[int] = []
        self.layer_source = ""
        self.schedule: EditSchedule | None = None
        self.run_state: RunState | None = None
        self.scored: Collection[int] = ()
        self.result: LocatorResult | None = None
        self._evaluation = evaluation
        self._in_chat = isinstance(tokenizer, ChatTokenizer)
        self._data: RunData | None = None
        self._positions: dict[str, int] = {}
        self._rest: ScoredEdits | None = None

    def configure_callbacks(self) -> list[L.Callback]:
        """Those of the verb that the trainer does not have."""
        wanted = COLLECTORS.get(self.trainer.state.fn)
        return [] if wanted is None or self._collector is not None else [wanted()]

    def configure_model(self) -> None:
        """Load what was not given, and ask in a chat where the run's data, or the tokenizer that was given, has it so."""
        super().configure_model()
        data, tokenizer = self._data_module, plain(self.tokenizer)
        in_chat = self._in_chat if data is None else data.chat_template
        self.tokenizer = ChatTokenizer(tokenizer) if in_chat else tokenizer

    def setup(self, stage: str) -> None:
        """Begin anew, and find the layer to edit before the model is loaded, where it stands in a file."""
        super().setup(stage)
        self._data, self._positions, self.scored = None, {}, ()
        # `DataLoader(requests)` collates by this table, which torch keeps open for types that it does not know. Here and not
        # in the constructor, so that processes which a strategy spawns have it too
        default_collate_fn_map[EditRequest] = collate_requests
        if stage == "fit":
            self.layer.check()
        if stage in ("validate", "predict"):
            self._found = self.layer.find(Path(self.trainer.default_root_dir), self.model_name)

    # fit -------------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Let the locator see all requests before the first is scored."""
        check_dealing(self.trainer)
        prepare(self.locator, *self.language_model, self.data.requests)

    def training_step(self, batch: RequestBatch | list[EditRequest], batch_idx: int) -> dict[str, Tensor]:
        """Score every layer for every request of the batch.

        Returns:
            ``index`` [B], ``values`` [B, C, L] with the locator's columns, and ``status`` [B]: 0 where the request counts,
            else a key of ``SKIPPED``.

        Raises:
            NonFiniteScoreError: If a score is not finite.
        """
        rows = score_requests(self.locator, *self.language_model, self._batch(batch), self.only_known)
        return {name: tensor.to(self.device) for name, tensor in rows.items()}

    def on_train_epoch_end(self) -> None:
        """Every request is scored: a second epoch would find the same."""
        self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Keep what was found, whatever this module is used for next."""
        collector = self._collector
        if isinstance(collector, ScoreCollector):
            self.result = collector.result

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out how far the loops are: a resumed run leaves out the requests that are done, in any batches."""
        checkpoint.pop("loops", None)

    def resume(self, done: Collection[int]) -> None:
        """Leave out requests that are scored already, where the data can; elsewhere they are scored again, and count once.

        Args:
            done: Their positions in the data set.
        """
        self.scored = frozenset(done)

    def fingerprint(self, data: RunData | None = None) -> dict[str, str]:
        """Everything that scores depend on, by name.

        Args:
            data: The requests; those of the present run by default.
        """
        llm, _ = self.language_model
        data = data or self.data
        processes = share_of(self._trainer)[1] if self._trainer else 1  # `compare` asks outside of a run
        batches = {"batch size": str(data.batch_size), "processes": str(processes)}
        return {
            "model": self.model_name,
            "dtype": str(llm.dtype),
            "weights": weights_mark(llm),
            "only_known": str(self.only_known),
            "locator": type(self.locator).__name__,
            **{name: str(setting) for name, setting in self.locator.settings(llm).items()},
            "requests": data.fingerprint,
            **(batches if self.locator.by_batch else {}),
        }

    # validate and predict --------------------------------------------------------------------------------------------

    @property
    def run_mode(self) -> Mode:
        """When edits are made in the present run."""
        return self.mode or ("batch" if self.trainer.state.fn == "predict" else "independent")

    @property
    def evaluation(self) -> EvaluationConfig:
        """What is measured in the present run."""
        collector = self._collector
        return self._evaluation or (
            collector.evaluation if isinstance(collector, EditCollector) else EvaluationConfig()
        )

    def on_validation_start(self) -> None:
        """Begin editing anew."""
        if self.trainer.state.fn == "fit":  # which scores layers, and edits nothing
            return
        llm, tokenizer = self.language_model
        self._found.check_weights(llm)
        self.edited_layers, self.layer_source = self._found.layers_for(self.editor, llm)
        schedule = SCHEDULES[self.run_mode]
        if not schedule.dealt and share_of(self.trainer)[1] > 1 and self._data_module is None:
            raise SettingError(
                f"In the mode {self.run_mode!r} every process needs all requests, in order, and a DataLoader gives each its share. Use "
                "EditDataModule, the mode 'batch' or 'independent', or one process."
            )
        check_dealing(self.trainer)
        self.editor.check_requests(self.data.requests)  # what is no request is refused here, too
        check_asked_lengths(llm, tokenizer, self.data.requests, self.evaluation)
        if self._data_module is not None and not self._cut_short:
            size = self._data_module.batch_size
            schedule.check([batch.requests for batch in RequestBatches(self.data.requests, size, in_order=True)])
        if self.governor is not None:
            self.governor.check_requests(self.data.requests)
        deal: Deal = AmongProcesses(input_device(llm)) if share_of(self.trainer)[1] > 1 else alone
        self.schedule = schedule(self.editor, llm, tokenizer, self.edited_layers, self.evaluation, self.governor, deal)
        self._rest = None
        self.run_state = self._state_of_edits(schedule) if schedule.resumes else None
        if self.run_state is not None:
            self.schedule.keep_state(self.run_state, self.data.requests)

    def on_predict_start(self) -> None:
        """Begin editing anew."""
        self.on_validation_start()

    def validation_step(
        self, batch: RequestBatch | list[EditRequest], batch_idx: int, dataloader_idx: int = 0
    ) -> ScoredEdits | None:
        """Edit a batch of requests, and score it where that can be done by now; no weight stays touched.

        Returns:
            The edits and their results; None in the modes ``batch`` and ``sequential``, whose edits
            :meth:`finish_edits` scores.
        """
        if self.trainer.state.fn == "fit":
            return None
        requests = self._batch(batch)
        return self._schedule.step(requests.index, requests.requests)

    def predict_step(
        self, batch: RequestBatch | list[EditRequest], batch_idx: int, dataloader_idx: int = 0
    ) -> ScoredEdits | None:
        """As :meth:`validation_step`."""
        return self.validation_step(batch, batch_idx)

    def finish_edits(self) -> ScoredEdits | None:
        """Score this process's share of what the steps left unscored, once, whoever asks."""
        if self._rest is None:
            self._rest = self._schedule.finish(*share_of(self.trainer))
        return self._rest

    def _state_of_edits(self, schedule: type[EditSchedule]) -> RunState | None:
        """Where the state of this run is kept; None where the results alone would not do, since the edits are needed, too."""
        collector, (llm, _) = self._collector, self.language_model
        if not isinstance(collector, EditCollector) or (not schedule.joint and collector.needs_edits):
            return None
        more = {"name of the model": self.model_name, "requests": self.data.fingerprint}
        root, rank = Path(self.trainer.default_root_dir), self.trainer.global_rank
        if schedule.joint:
            path, parts, writes = root / STATE_FILE, "", self.trainer.is_global_zero
            more |= {"batch size": str(self.data.batch_size)}
            more |= {"governor": str(self.governor and self.governor.settings())}
        else:
            path, parts, writes = root / RESULTS_FILE.format(rank=rank), RESULTS_FILE.format(rank="*"), True
            more |= {"what is asked": str(self.evaluation.asked())}
        fingerprint = fingerprint_of(self.editor, llm, self.edited_layers, self.evaluation, **more)
        return RunState(path, fingerprint, collector.save_every, writes, parts)

    # what a run works on ---------------------------------------------------------------------------------------------

    @property
    def data(self) -> RunData:
        """The requests of the present run."""
        if self._data is None:
            self._data = RunData.of(self.trainer, self._in_chat)
        return self._data

    @property
    def _collector(self) -> ScoreCollector | EditCollector | None:
        """The callback that collects what the present run finds out."""
        wanted = COLLECTORS.get(self.trainer.state.fn, ())
        return next((callback for callback in self.trainer.callbacks if isinstance(callback, wanted)), None)

    @property
    def _data_module(self) -> EditDataModule | None:
        data = getattr(self._trainer, "datamodule", None)  # None outside of a run, where `trainer` raises
        return data if isinstance(data, EditDataModule) else None

    @property
    def _cut_short(self) -> bool:
        """Whether the trainer leaves batches out."""
        trainer = self.trainer
        limit = trainer.limit_predict_batches if trainer.state.fn == "predict" else trainer.limit_val_batches
        return isinstance(limit, int) or limit < 1  # 1 is one batch, 1.0 all of them

    @property
    def _schedule(self) -> EditSchedule:
        if self.schedule is None:
            raise RuntimeError("No run has begun. Let a Trainer call the steps.")
        return self.schedule

    def _batch(self, batch: RequestBatch | Sequence[EditRequest] | EditRequest) -> RequestBatch:
        """A batch with the positions of its requests in the data set, under which results are kept."""
        if isinstance(batch, RequestBatch):
            return batch
        requests: list[EditRequest] = [batch] if isinstance(batch, EditRequest) else list(batch)
        if not self._positions:
            for place, request in enumerate(self.data.requests):
                self._positions.setdefault(repr(request), place)
        try:
            return RequestBatch([self._positions[repr(request)] for request in requests], requests)
        except KeyError as error:
            raise DataError(
                f"A batch holds {error.args[0][:200]}, which is not in the data set of its DataLoader. Change requests in the data "
                "set and not in `collate_fn`: results are kept under their place there."
            ) from error
