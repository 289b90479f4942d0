"""The command line: ``lga fit``, ``lga validate`` and ``lga predict``, a LightningCLI."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lga_lightning.callbacks import AdapterWriter, EditReport, ScoreCollector
from lga_lightning.compare import LocatorComparison
from lga_lightning.editing.governor import Governor
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators.race import RaceSettings
from lga_lightning.models.loading import EMBEDDED_NAME
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from lga_lightning.modules.moments import MomentsModule
from lga_lightning.reports.comparison import leave_comparison
from lga_lightning.reports.terminal import print_moments

# what Lightning says about any run, or about one in which nothing is trained: true, meant, and no news
EXPECTED = re.compile(
    "Tip: |TPU available|GPU available: False|`Trainer.fit` stopped: `max_epochs=1` reached|Seed set to|"
    "`LightningModule.configure_optimizers` returned `None`|in eval mode at the start of training|"
    "Total length of `list` across ranks is zero|have no `val_dataloader`|isinstance\\(treespec, LeafSpec\\)"
)


TRAINER_DEFAULTS = {
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "inference_mode": False,  # editing takes gradients
    "use_distributed_sampler": False,
}


# arguments of LGAModule that are objects
IN_PYTHON = {"model", "tokenizer", "evaluation"}

# so that `--model.editor.steps` needs no `--model.editor`. As defaults of the parser they would hand their settings on to
# whatever class a user chooses instead
BEGIN_WITH = ("--model.locator=EditForecast", "--model.editor=RROME")


class FrozenCLI(LightningCLI):
    """A LightningCLI for models that nobody trains."""

    def __init__(self, *classes: type, **kwargs: Any) -> None:
        super().__init__(
            *classes,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults=TRAINER_DEFAULTS,
            **kwargs,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Arguments of trainer, module and data, but not those that only Python can give."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        skipped = IN_PYTHON & inspect.signature(self.model_class).parameters.keys()
        parser.add_class_arguments(self.model_class, "model", fail_untyped=False, sub_configs=True, skip=skipped)
        parser.set_defaults({"model.model_name": EMBEDDED_NAME})
        if self.datamodule_class is not None:
            parser.add_lightning_class_args(self.datamodule_class, "data")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, or what stands for it."""
        words = sys.argv[1:] if args is None else args
        if isinstance(words, list | tuple):
            self.config = parser.parse_args(self.begin(words))
        else:
            super().parse_arguments(parser, args)

    def begin(self, words: Sequence[str]) -> list[str]:
        """The words of a command line, after those that come first by themselves."""
        return list(words)


class MomentsCLI(FrozenCLI):
    """``lga moments``: estimates second moments of keys."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            MomentsModule,
            args=args,
            run=False,
            save_config_callback=None,
            parser_kwargs={"parser_mode": "yaml", "prog": "lga moments"},
        )
        self.trainer.predict(self.model, return_predictions=False)
        if self.trainer.is_global_zero:
            print_moments(self.model.key)


class ComparisonCLI(FrozenCLI):
    """``lga compare``: locators side by side."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            LGAModule,
            EditDataModule,
            args=args,
            run=False,
            save_config_callback=None,
            parser_kwargs={"parser_mode": "yaml", "prog": "lga compare"},
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

    def begin(self, words: Sequence[str]) -> list[str]:
        """A locator and an editor to begin with."""
        return [*BEGIN_WITH, *words]

    def _trainer_for(self, folder: Path, callback: L.Callback) -> L.Trainer:
        given = self._get(self.config_init, "trainer.callbacks") or []
        callbacks = [*(given if isinstance(given, list) else [given]), callback]
        return self.instantiate_trainer(default_root_dir=str(folder), callbacks=callbacks)


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

    def before_instantiate_classes(self) -> None:
        """Name the saved configuration after the verb, and look for the checkpoint before the model is loaded."""
        self.save_config_kwargs["config_filename"] = f"lga_{self.subcommand}.yaml"
        if self._get(self.config, "merge"):
            self.config[self.subcommand]["edits"]["merge"] = True
        verify = self._get(self.config, "attribution.verify")
        if isinstance(verify, Namespace):
            RaceSettings(**verify.as_dict())  # out of range fails here, as one error and not as one for each type
        governor = self._get(self.config, "model.governor")
        if isinstance(governor, Namespace):
            Governor(**governor.as_dict())
        checkpoint = self._get(self.config, "ckpt_path")
        if checkpoint and not Path(checkpoint).is_file():
            raise DataError(
                f"There is no checkpoint at {checkpoint!r}. `lga fit` leaves attribution.ckpt in --trainer.default_root_dir."
            )


def run(args: ArgsType = None) -> FrozenCLI:
    """Run the command line in this process; errors about the user's input come out as :class:`LGAError`."""
    warnings.filterwarnings("ignore", f".*({EXPECTED.pattern})")
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).addFilter(lambda record: not EXPECTED.search(record.getMessage()))
    try:
        words = list(args) if isinstance(args, list | tuple) else sys.argv[1:]
        verbs: dict[str, type[MomentsCLI] | type[ComparisonCLI]] = {"moments": MomentsCLI, "compare": ComparisonCLI}
        verb = verbs.get(words[0]) if words else None
        return verb(words[1:]) if verb else LGACLI(args)
    except MisconfigurationException as error:
        raise SettingError(str(error)) from error
    except (UnpicklingError, EOFError) as error:
        raise DataError("The file at --ckpt_path is not a checkpoint of `lga fit`.") from error
