"""What the verbs that Lightning runs have in common: a LightningCLI for models that nobody trains."""

from __future__ import annotations

import inspect
import multiprocessing
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lga_lightning.cli.refusal import meant, refusal
from lga_lightning.cli.words import in_order
from lga_lightning.exceptions import LGAError, SettingError
from lga_lightning.models.loading import EMBEDDED_NAME
from lga_lightning.utils.processes import Processes
from lga_lightning.utils.signals import take_again
from lga_lightning.utils.text import complain

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


class EndsAtOnce(L.Callback):
    """Takes SIGTERM back from Lightning, whose handler comes in front.

    That one tells the other processes by a broadcast, which waits for good where another of them waits in an operation of its own.
    Ctrl-C takes no such turn, and ends all.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning has taken the signal just before, and would call one that has come since a success."""
        take_again()
        if trainer.received_sigterm:
            signal.raise_signal(signal.SIGTERM)

    on_validation_start = on_predict_start = on_train_start


def _told(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What Lightning runs in processes that it forks or spawns: the first that fails says why.

    Whoever waits for them may hear first of one that fails because another one did.
    """
    try:
        return function(*args, **kwargs)
    except (LGAError, OSError) as error:
        if multiprocessing.parent_process() is not None and Processes().speaks():
            complain(str(error))
        raise


def _launch(launch: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return launch(partial(_told, function), *args, **kwargs)
    except KeyboardInterrupt:  # SIGTERM reaches one process alone
        for child in multiprocessing.active_children():
            child.terminate()
        raise


def words_of(args: ArgsType) -> list[str] | None:
    """The words of a command line; None where a configuration stands for it.

    Args:
        args: What a CLI was given: words, a configuration, or nothing for those of this process.
    """
    if args is None:
        return sys.argv[1:]
    return list(args) if isinstance(args, list | tuple) else None


class FrozenCLI(LightningCLI):
    """A LightningCLI for models that nobody trains.

    Args:
        classes: Classes of the module and, where there is one, of the data module.
        verb: The verb, where the parser has but one.
        kwargs: Arguments of ``LightningCLI``.
    """

    def __init__(self, *classes: type, verb: str = "", **kwargs: Any) -> None:
        self.verb = verb
        super().__init__(
            *classes,
            parser_kwargs={"parser_mode": "yaml", "prog": f"lga {verb}".strip()},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults=TRAINER_DEFAULTS,
            **kwargs,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose errors can be put in words, and which takes no half of an option's name for the whole."""
        return super().init_parser(**kwargs, exit_on_error=False, allow_abbrev=False)

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
        """Parse the command line, or what stands for it.

        Raises:
            SettingError: If it cannot be used.
        """
        words = words_of(args)
        if words is None:
            super().parse_arguments(parser, args)
            return
        verb = [] if self.verb else [word for word in words[:1] if not word.startswith("-")]
        self.verb = self.verb or "".join(verb)
        options = in_order(words[len(verb) :])
        with self._in_words():
            self.config = parser.parse_args([*verb, *self.begin(options)])

    def begin(self, options: Sequence[str]) -> list[str]:
        """Options of a verb, after those that come first by themselves."""
        return list(options)

    def instantiate_classes(self) -> None:
        """Make the trainer, the module and the data.

        Raises:
            SettingError: If one of them refuses its settings.
        """
        with self._in_words():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Make a trainer, which shows its progress to a terminal alone, with a bar that leaves room for others.

        Raises:
            SettingError: If it refuses its settings.
        """
        shown = self._get(self.config_init, "trainer.enable_progress_bar")
        if shown is None:
            shown = sys.stderr.isatty()
            kwargs.setdefault("enable_progress_bar", shown)
        given = self._get(self.config_init, "trainer.callbacks") or []
        callbacks: list[L.Callback] = [EndsAtOnce()]
        if shown and not any(isinstance(one, ProgressBar) for one in (given if isinstance(given, list) else [given])):
            callbacks.append(TQDMProgressBar())
        self.trainer_defaults = {**TRAINER_DEFAULTS, "callbacks": callbacks}
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise meant(error) or SettingError(f"The options of --trainer cannot be used: {error}") from error
        if launcher := trainer.strategy.launcher:
            launcher.launch = partial(_launch, launcher.launch)  # type: ignore[method-assign]
        return trainer

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise SettingError(f"--seed_everything: {error}.") from error

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """What goes wrong with options within the block, as a paragraph for the user."""
        try:
            yield
        except (ArgumentError, TypeError, ValueError) as error:
            own = self.verb in getattr(self, "_subcommand_parsers", ())  # else there is but one parser
            raise refusal(self._parser(self.verb if own else None), error, self.verb) from error
