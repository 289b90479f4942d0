"""Fine-tune a language model with plain Lightning; two lines more watch its layers, and edit facts at the end.

python examples/with_lightning.py --tiny     # a tiny random model, in seconds
python examples/with_lightning.py            # SmolLM2-135M
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from parts import QUICK, language_model, options, rows
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from lga_lightning import ApplyEdits, LayerAttribution, load_requests


class FineTuning(L.LightningModule):
    """A training run as anybody writes it: it knows nothing of layers or edits."""

    def __init__(self, llm: PreTrainedModel) -> None:
        super().__init__()
        self.llm = llm

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The model's own loss."""
        loss = self.llm(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-5)


def loggers(folder: Path) -> list[Logger]:
    """CSV, and TensorBoard where it is installed."""
    found: list[Logger] = [CSVLogger(folder, name="csv", version="")]
    if find_spec("tensorboard"):
        found.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, watch, edit."""
    asked = options(arguments, "Fine-tune with Lightning, watch the layers, edit facts at the end.")
    llm, tokenizer = language_model(asked.tiny)
    proxies = load_requests(split="proxy", limit=4 if asked.tiny else 24).requests
    facts = load_requests(split="test", limit=2).requests

    watch = LayerAttribution(proxies, model="llm", tokenizer=tokenizer)
    edits = ApplyEdits(facts, model="llm", tokenizer=tokenizer, editor=QUICK)

    trainer = L.Trainer(
        max_epochs=2,
        callbacks=[watch, edits],
        logger=loggers(asked.folder),
        default_root_dir=asked.folder,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    trainer.fit(FineTuning(llm), DataLoader(rows(tokenizer), batch_size=2, shuffle=True))


if __name__ == "__main__":
    main()
