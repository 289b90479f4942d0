"""``lga fit``, ``lga validate`` and ``lga predict``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lga_lightning.callbacks import AdapterWriter, EditReport, ScoreCollector
from lga_lightning.callbacks.checkpoint import check_checkpoint
from lga_lightning.cli.frozen import BEGIN_WITH, FrozenCLI
from lga_lightning.editing.governor import Governor
from lga_lightning.locators.race import RaceSettings
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule


class LGACLI(FrozenCLI):
    """LightningCLI for :class:`LGAModule` and :class:`EditDataModule`."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            LGAModule,
            EditDataModule,
            args=args,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"parser_mode": "yaml"},
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
        self._preparing = subcommand
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "validate":
            parser.set_defaults({"verbose": False})  # EditReport prints a table of its own
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})
        return parser

    def begin(self, words: Sequence[str]) -> list[str]:
        """A locator and an editor to begin with, for the verb."""
        verb = [word for word in words[:1] if not word.startswith("-")]
        rest = [*words[len(verb) :], "--"]
        alone = [word == "--verify" and after.startswith("-") for word, after in pairwise(rest)]
        rest = [f"{word}=true" if flag else word for word, flag in zip(rest, alone, strict=False)]
        return [*verb, *(BEGIN_WITH if verb else ()), *rest]

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
        verify = self._get(self.config, "attribution.verify")
        if isinstance(verify, Namespace):
            RaceSettings(**verify.as_dict())  # out of range fails here, as one error and not as one for each type
        governor = self._get(self.config, "model.governor")
        if isinstance(governor, Namespace):
            Governor(**governor.as_dict())
