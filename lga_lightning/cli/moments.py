"""``lga moments``."""

from __future__ import annotations

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
        self.trainer.predict(self.model, return_predictions=False)
        if self.trainer.is_global_zero:
            print_moments(self.model.key)
