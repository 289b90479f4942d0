"""``lga moments``: second moments of keys over several devices, put into the cache where the editing methods look for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lga_lightning.callbacks.shares import in_step, share_of
from lga_lightning.covariance.accumulator import CovarianceAccumulator
from lga_lightning.covariance.batches import PIECES, SAMPLED, batches, token_budget
from lga_lightning.covariance.estimate import finish, restore_partial, save_partial
from lga_lightning.covariance.store import CovarianceKey, load_covariance
from lga_lightning.data.corpus import BUNDLED
from lga_lightning.exceptions import SettingError
from lga_lightning.models.loading import DeviceMap
from lga_lightning.models.quantization import Quantization
from lga_lightning.models.structure import Structure
from lga_lightning.modules.frozen import Dtype, FrozenModule
from lga_lightning.results.layer_spec import LayerSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class MomentsModule(FrozenModule):
    """Estimates C = E[k k^T] of some layers of a language model in one pass over a text.

    An interrupted run goes on by itself when it is started again, on any number of processes.

    Args:
        model_name: ``smollm2-135m`` for the embedded model, ``gemma3-270m``, a Hub id, a local folder or a local .gguf file; with
            ``model``, what to call that.
        layers: Blocks whose keys are counted: a number, a range (``4-8``), a list, ``all``, ``golden`` (what ``fit`` left in
            ``--trainer.default_root_dir``), or the path of an attribution.json.
        text: ``bundled`` for the package's text, as editing takes it by default; a file of texts, a data set of the Hub
            (``hub:owner/name``, or ``hub:owner/name?config=...``), or ``sampled`` for text that the model itself writes.
        tokens: Budget of tokens; by default 20 times the width of the widest keys.
        sequence_length: Tokens a piece of text, at most.
        dtype: Dtype of the weights that are loaded. Editing takes moments of the same dtype alone.
        attn_implementation: Attention that transformers is to use for a model that is loaded.
        save_every: Seconds between two notes of how far the run is; 0 for one after each batch.
        structure: Where blocks and matrices are in a model of an unusual architecture.
        trust_remote_code: Whether code that comes with a model that is loaded may run; without it such a model is refused.
        model: A language model that is at hand, instead of one to load.
        tokenizer: Its fast tokenizer; None loads the one of the model's name.
        quantization: What the linear maps of a model that is loaded are kept in: ``int8`` or ``int4`` (torchao), ``nf4`` (bitsandbytes); None for
            what the checkpoint has.
        device_map: How the modules of a model that is loaded are spread over devices, in one process.
    """

    def __init__(
        self,
        model_name: str | None = None,
        layers: int | str | list[int] = "all",
        text: str = BUNDLED,
        tokens: int | None = None,
        sequence_length: int = 256,
        dtype: Dtype = "float32",
        attn_implementation: str | None = None,
        save_every: float = 20.0,
        structure: Structure | None = None,
        trust_remote_code: bool = False,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        quantization: Quantization | None = None,
        device_map: DeviceMap | None = None,
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
        )
        if min(1 if tokens is None else tokens, sequence_length) < 1 or save_every < 0:
            raise SettingError(
                "`tokens` and `sequence_length` must be at least 1, and `save_every` at least 0, got "
                f"{tokens}, {sequence_length} and {save_every}."
            )
        self.text = text
        self.layers = LayerSpec.parse(layers)
        self.tokens, self.sequence_length, self.save_every = tokens, sequence_length, save_every
        self.key: CovarianceKey | None = None
        self.moments: CovarianceAccumulator | None = None
        self.done = 0
        self._saved = 0.0
        self._layers = self.layers

    def setup(self, stage: str) -> None:
        """Find out which layers are meant, before the model is loaded.

        Raises:
            SettingError: If the trainer would leave text out.
        """
        super().setup(stage)
        limit = self.trainer.limit_predict_batches
        if isinstance(limit, int) or limit < 1:  # 1 is one batch, 1.0 all of them
            raise SettingError(
                f"Trainer(limit_predict_batches={limit}) would leave text out, and what was counted would be kept as the second moments of all of "
                "it. Leave `limit_predict_batches` and `fast_dev_run` out; for fewer tokens give --model.tokens (in Python: `tokens`)."
            )
        self._layers = self.layers.find(Path(self.trainer.default_root_dir), self.model_name)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Lists of token ids go to the device with the model's own passes."""
        return batch

    def predict_dataloader(self) -> MomentBatches:
        """What is left to do for this process."""
        llm, tokenizer = self.language_model
        self.tokens = self.tokens or token_budget(llm)
        self.key = CovarianceKey.of(llm, tokenizer, self.text, self.tokens, self.sequence_length)
        self.key.folder.mkdir(parents=True, exist_ok=True)
        wanted, _ = self._layers.layers_for(None, llm)
        missing = [layer for layer in wanted if load_covariance(self.key.folder, layer, self.key) is None]
        if not missing:
            return MomentBatches(iter(()), 0, 0, 1)
        self.moments = CovarianceAccumulator(llm, missing).to(self.device)
        self.done, self._saved = restore_partial(self.moments, self.key), time.monotonic()
        share = share_of(self.trainer)
        if share[0]:  # the sums so far count once
            self.moments.reset()
        pending: Iterator[Any] = batches(llm, tokenizer, self.text, self.tokens, self.sequence_length, self.done, share)
        if self.text == SAMPLED:
            count = -(-self.tokens // (PIECES * self.key.sequence_length)) - self.done
        else:  # token ids of the whole budget are no more than some megabytes
            whole = list(pending)
            pending, count = iter(whole), len(whole)
        # cut off when all was read: without a batch, be it one without text, Lightning would end before the sums are kept
        if count <= 0:
            pending, count = iter(()), 1
        return MomentBatches(pending, count, *share)

    def predict_step(self, batch: list[list[int]], batch_idx: int) -> None:
        """Take in a batch of pieces of text, and now and then note how far all processes are."""
        llm, _ = self.language_model
        if self.moments is None or self.key is None:
            raise RuntimeError("predict_dataloader has not run. Let a Trainer call the steps.")
        self.moments.update(llm, batch)
        if self.trainer.strategy.broadcast(time.monotonic() - self._saved >= self.save_every):  # one clock for all
            with self.moments.sync_context(should_sync=not in_step(self.trainer)):
                if self.trainer.is_global_zero:
                    done = self.done + (batch_idx + 1) * share_of(self.trainer)[1]
                    save_partial(self.moments, self.key, done)
            self._saved = time.monotonic()  # not before: a note may take longer than the time between two

    def on_predict_epoch_end(self) -> None:
        """Add up the processes' sums and put them into the cache."""
        if self.moments is not None and self.key is not None:
            with self.moments.sync_context(should_sync=not in_step(self.trainer)):
                if self.trainer.is_global_zero:
                    finish(self.moments, self.key)


class MomentBatches:
    """Batches dealt out to processes in turn; where they do not come out even, the last process gets an empty one.

    Args:
        pending: The batches of all processes.
        count: How many.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, pending: Iterator[Any], count: int, rank: int, world_size: int) -> None:
        self.pending, self.count, self.rank, self.world_size = pending, count, rank, world_size

    def __len__(self) -> int:
        return -(-self.count // self.world_size)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(len(self)):
            dealt: list[Any] = [next(self.pending, []) for _ in range(self.world_size)]
            yield dealt[self.rank]
