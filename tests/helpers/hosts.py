"""A training run of somebody else's, on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.models import tiny_model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.llm = tiny_model("llama").requires_grad_(True)


class Host(L.LightningModule):
    """Fine-tunes a language model, with dropout, and knows nothing of us."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.net.llm.model.embed_tokens.requires_grad_(False)
        self.dropout = nn.Dropout(0.5)
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        embedded = self.dropout(self.net.llm.get_input_embeddings()(batch))
        loss = self.net.llm(inputs_embeds=embedded, labels=batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    def train_dataloader(self) -> DataLoader:
        tokens = torch.randint(3, 300, (8, 12), generator=torch.Generator().manual_seed(0))
        return DataLoader(tokens, batch_size=4, shuffle=True)


def train(
    tmp_path: Path, callbacks: list[L.Callback], host_class: Callable[[], L.LightningModule] = Host, **kwargs: object
) -> L.LightningModule:
    """A host that was trained for two epochs, from the same seed in every call.

    Args:
        tmp_path: Folder of the run.
        callbacks: Its callbacks.
        host_class: What makes the host.
        kwargs: More arguments of the trainer.
    """
    L.seed_everything(3)
    host = host_class()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=callbacks,
        logger=CSVLogger(tmp_path, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"enable_checkpointing": False, **kwargs},
    )
    trainer.fit(host)
    return host
