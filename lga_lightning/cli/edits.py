"""``lga fit``, ``lga validate`` and ``lga predict``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lga_lightning.callbacks import AdapterWriter, EditReport, ScoreCollector
from lga_lightning.callbacks.checkpoint import check_checkpoint
from lga_lightning.cli.frozen import BEGIN_WITH, FrozenCLI, words_of
from lga_lightning.locators.race import RaceSettings
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from lga_lightning.reports.terminal import print_note
from lga_lightning.results.attribution import ATTRIBUTION_FILE
from lga_lightning.results.validation import VALIDATION_FILE

RESULTS = {"fit": ATTRIBUTION_FILE, "validate": VALIDATION_FILE}


class LGACLI(FrozenCLI):
    """LightningCLI for :class:`LGAModule` and :class:`EditDataModule`."""

    def __init__(self, args: ArgsType = None) -> None:
        self._asked = next(iter(words_of(args) or ()), "")
        super().__init__(
            LGAModule,
            EditDataModule,
            args=args,
            save_config_kwargs={"overwrite": True},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What ``lga`` can do."""
        return {
            name: skipped
            for name, skipped in LightningCLI.subcommands().items()
            if name in ("fit", "validate", "predict")
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our callbacks, and defaults that ``--print_config`` shows."""
        fits = self._preparing == "fit"
        parser.add_class_arguments(ScoreCollector, "attribution", skip={"verbose"} if fits else {"verbose", "verify"})
        parser.callback_keys.append("attribution")
        if fits:
            verify = (
                "Let real edits have the last word: a race among the layers that the scores name. Alone, it has its usual "
                "settings; --verify.budget 200 or '5 min', --verify.tolerance, --verify.confidence, --verify.candidates and "
                "--verify.requests switch it on as well."
            )
            parser.add_argument("--verify", type=RaceSettings | bool | None, default=None, help=verify)
            parser.link_arguments("verify", "attribution.verify")
        writes = self._preparing == "predict"
        parser.add_lightning_class_args(AdapterWriter if writes else EditReport, "edits")
        if writes:
            parser.add_argument("--merge", action="store_true", help="The same as --edits.merge true.")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if self._asked != subcommand and self._asked in self.subcommands():
            return self.init_parser(**kwargs)  # with arguments it would take time, and serve nobody
        self._preparing = subcommand
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "validate":
            parser.set_defaults({"verbose": False})  # EditReport prints a table of its own
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})
        return parser

    def begin(self, options: Sequence[str]) -> list[str]:
        """A locator and an editor to begin with, and ``--verify`` alone as a flag."""
        if not self.verb:
            return list(options)
        alone = [option == "--verify" and after.startswith("-") for option, after in pairwise([*options, "--"])]
        flags = [f"{option}=true" if flag else option for option, flag in zip(options, alone, strict=True)]
        return [*BEGIN_WITH, *flags]

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, and look at the checkpoint before anything else does."""
        super().parse_arguments(parser, args)
        if checkpoint := self.config[self.config.subcommand].get("ckpt_path"):
            check_checkpoint(checkpoint)

    def before_instantiate_classes(self) -> None:
        """Name the saved configuration after the verb."""
        self.save_config_kwargs["config_filename"] = f"lga_{self.subcommand}.yaml"
        if self._get(self.config, "merge"):
            self.config[self.subcommand]["edits"]["merge"] = True
        self._say_what_is_replaced()

    def _say_what_is_replaced(self) -> None:
        """Where an earlier run has left results, say so while there is time to keep them."""
        root = Path(self._get(self.config, "trainer.default_root_dir") or "")
        earlier = root / RESULTS.get(self.subcommand or "", "")
        if earlier.is_file() and os.environ.get("LOCAL_RANK", "0") == "0":
            made = datetime.fromtimestamp(earlier.stat().st_mtime)
            print_note(
                f"{earlier}, of {made:%Y-%m-%d %H:%M}, and the report beside it will be replaced. To keep them: "
                "--trainer.default_root_dir with another folder."
            )
