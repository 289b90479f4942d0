"""What both modules share: a language model that nobody trains, loaded when a run begins or given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lga_lightning.callbacks.shares import check_strategy, in_step
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import blocks
from lga_lightning.models.checkpointing import enable_checkpointing_
from lga_lightning.models.loading import EMBEDDED_NAME, DeviceMap, load_model, load_tokenizer, multiplies, name_of
from lga_lightning.models.quantization import Quantization
from lga_lightning.models.sharding import load_sharded
from lga_lightning.models.storage import is_spread
from lga_lightning.models.structure import Structure, register_structure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16", "float16", "float64", "auto"]

LIMITS = {
    "fit": ("max_epochs", "max_steps", "limit_train_batches"),
    "validate": ("limit_val_batches",),
    "predict": ("limit_predict_batches",),
}
"""Settings of a trainer that end a run before it begins, where they are 0."""


class FrozenModule(L.LightningModule):
    """A LightningModule around a language model that is left as it is.

    Args:
        model_name: Name to load it by (``smollm2-135m``, ``gemma3-270m``, a Hub id, a local folder or a local .gguf file), or, with
            ``model``, what to call that; None takes its own name, or the embedded model.
        dtype: Dtype of the weights that are loaded; ``auto`` takes the checkpoint's.
        attn_implementation: Attention that transformers is to use for a model that is loaded.
        structure: Where blocks and matrices are in a model of an unusual architecture.
        trust_remote_code: Whether code that comes with a model that is loaded may run.
        model: A language model that is at hand, instead of one to load.
        tokenizer: Its fast tokenizer; None loads the one of the model's name.
        quantization: What the linear maps of a model that is loaded are kept in.
        device_map: How the modules of a model that is loaded are spread over devices (``auto``, or a device by name of a module).
        activation_checkpointing: Whether blocks run again on the way back, instead of keeping their activations.

    Attributes:
        llm: The language model, once it is loaded.
        tokenizer: Its tokenizer.
        model_name: What to call it in results.
    """

    def __init__(
        self,
        model_name: str | None,
        dtype: Dtype,
        attn_implementation: str | None,
        structure: Structure | None,
        trust_remote_code: bool,
        model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        quantization: Quantization | None = None,
        device_map: DeviceMap | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if device_map is not None and model is not None:
            raise SettingError(
                "`device_map` spreads a model that is loaded by its name, and `model` gives one that is loaded already. Leave out one of them."
            )
        self.device_map = device_map
        self.activation_checkpointing = activation_checkpointing
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold no weights
        self.dtype_name = dtype
        self.attn_implementation = attn_implementation
        self.structure = structure
        self.trust_remote_code = trust_remote_code
        self.quantization = quantization
        self.model_name = model_name or (EMBEDDED_NAME if model is None else name_of(model))
        self.llm: PreTrainedModel | None = model
        self.tokenizer = tokenizer
        # DDP wants one parameter that has a gradient, and must not copy the frozen model about
        self.anchor = nn.Parameter(torch.zeros(()))
        self._ddp_params_and_buffers_to_ignore: list[str] = []

    def setup(self, stage: str) -> None:
        """Refuse a trainer that would convert the model, or end at once with nothing found and no error.

        Raises:
            SettingError: If it has a precision of its own, or makes no epoch, step or batch, or has made all of its epochs, or never ends.
        """
        check_strategy(self.trainer, self.device_map is not None, self.llm)
        if self.quantization is not None and in_step(self.trainer):
            raise SettingError(
                "Weights in few bits (`quantization`) cannot be put in shards. Leave `quantization` out, or spread the model over the devices of "
                "one process (--model.device_map auto --trainer.devices 1)."
            )
        limits = LIMITS.get(stage, ())
        for name in (name for name in limits if getattr(self.trainer, name) == 0):
            raise SettingError(
                f"With Trainer({name}=0) there is nothing to do. Leave `{name}` out, or give at least 1."
            )
        if stage == "fit":
            self._check_epochs()
        precision = self.trainer.precision
        if precision != "32-true":
            raise SettingError(
                f"Trainer(precision={precision!r}) converts weights and batches, or what passes compute, and the language model is to stay as it "
                "is. Leave `precision` out, and load the model in the dtype that you want (`dtype=...`, or --model.dtype)."
            )

    def _check_epochs(self) -> None:
        most, done, min_steps = self.trainer.max_epochs, self.trainer.current_epoch, self.trainer.min_steps
        if most is not None and 0 < most <= done:
            raise SettingError(
                f"This Trainer has made all of its epochs (max_epochs={most}), and would leave what it has found before. Take a new one, or leave "
                "`max_epochs` out."
            )
        if min_steps:
            raise SettingError(
                f"Trainer(min_steps={min_steps}) waits for steps of an optimizer, and nothing is optimised here. Leave `min_steps` out."
            )

    def configure_model(self) -> None:
        """Load the language model and its tokenizer, once, as far as they were not given."""
        if self.llm is None:
            self.llm, tokenizer = self._load()
            self.tokenizer = self.tokenizer or tokenizer
        if self.activation_checkpointing:
            enable_checkpointing_(self.llm)
        if self.tokenizer is None:
            self.tokenizer = load_tokenizer(self.llm.config.name_or_path, self.trust_remote_code)
        if self.structure is not None:
            register_structure(self.llm.config.model_type, self.structure)
        blocks(self.llm)  # an unknown architecture fails here, before any work
        on_cpu = self._trainer is not None and self._trainer.strategy.root_device.type == "cpu"
        if on_cpu and not multiplies(self.llm.dtype):
            name = str(self.llm.dtype).removeprefix("torch.")
            rank_zero_warn(
                f"This CPU has no instructions for {name}: passes take many times as long as in float32. Load the model with "
                "dtype='float32' (--model.dtype float32), if there is memory for it."
            )
        # shared weights under all of their names
        tensors = (self.llm.named_parameters, self.llm.named_buffers)
        named = [pair for of in tensors for pair in of(prefix="llm", remove_duplicate=False)]
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in named]

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        settings = (self.model_name, self.dtype_name, self.attn_implementation, self.trust_remote_code)
        if self._trainer is not None and in_step(self._trainer):
            strategy = self._trainer.strategy
            split = strategy.device_mesh["tensor_parallel"].size() > 1
            mesh = strategy.device_mesh["tensor_parallel" if split else "data_parallel"]
            return load_sharded(mesh, strategy.root_device, *settings, split=split)
        return load_model(*settings, self.quantization, self.device_map)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModule:
        """As of any module, but modules that were given devices of their own stay there."""
        llm = self._modules["llm"] if self.llm is not None and is_spread(self.llm) else None
        if llm is None:
            return super()._apply(fn, recurse)
        self._modules["llm"] = None
        try:
            return super()._apply(fn, recurse)
        finally:
            self._modules["llm"] = llm

    def configure_optimizers(self) -> list[Optimizer]:
        """Nothing is optimised."""
        return []

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Empty: the language model is frozen and has files of its own."""
        return {}

    @property
    def language_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The language model and its tokenizer."""
        if self.llm is None or self.tokenizer is None:
            raise RuntimeError("The language model is not loaded yet. Call configure_model(), or let a Trainer do it.")
        return self.llm, self.tokenizer
