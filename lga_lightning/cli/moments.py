"""``lga moments``."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.cli import ArgsType

from lga_lightning.cli.frozen import FrozenCLI
from lga_lightning.modules.moments import MomentsModule
from lga_lightning.reports.terminal import print_moments


class MomentsCLI(FrozenCLI):
    """``lga moments``: estimates second moments of keys."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            MomentsModule,
            args=args,
            run=False,
            save_config_callback=None,
            verb="moments",
        )
        self.trainer.callbacks.append(SaysWhere())
        self.trainer.predict(self.model, return_predictions=False)


class SaysWhere(L.Callback):
    """Says where the moments are: in the process that has them, which Lightning may have forked or spawned."""

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it, once."""
        if trainer.is_global_zero:
            print_moments(pl_module.key)
