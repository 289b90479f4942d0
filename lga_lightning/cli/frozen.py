"""What the verbs that Lightning runs have in common: a LightningCLI for models that nobody trains."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lga_lightning.models.loading import EMBEDDED_NAME

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
