"""``lga compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lga_lightning.cli.frozen import BEGIN_WITH, FrozenCLI
from lga_lightning.compare import LocatorComparison
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from lga_lightning.reports.comparison import leave_comparison


class ComparisonCLI(FrozenCLI):
    """``lga compare``: locators side by side."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            LGAModule,
            EditDataModule,
            args=args,
            run=False,
            save_config_callback=None,
            verb="compare",
        )
        root = Path(self.trainer.default_root_dir)
        if self.trainer.is_global_zero:
            root.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, root / "lga_compare.yaml", skip_none=False, overwrite=True)
        result = self.config_init["compare"].run(self.model, self.datamodule, root, self._trainer_for)
        if self.trainer.is_global_zero:
            leave_comparison(result, root)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What is compared."""
        parser.add_class_arguments(LocatorComparison, "compare")
        parser.set_defaults({"model.only_known": True})  # causal tracing counts no others

    def begin(self, options: Sequence[str]) -> list[str]:
        """A locator and an editor to begin with."""
        return [*BEGIN_WITH, *options]

    def _trainer_for(self, folder: Path, callback: L.Callback) -> L.Trainer:
        given = self._get(self.config_init, "trainer.callbacks") or []
        callbacks = [*(given if isinstance(given, list) else [given]), callback]
        return self.instantiate_trainer(default_root_dir=str(folder), callbacks=callbacks)
