"""The command line: which verb, and how its errors come out."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable

from lightning.pytorch.cli import ArgsType
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from transformers.utils import logging as transformers_logging

from lga_lightning.cli.comparison import ComparisonCLI
from lga_lightning.cli.edit import edit
from lga_lightning.cli.edits import LGACLI
from lga_lightning.cli.facts import list_facts, remove_facts
from lga_lightning.cli.frozen import FrozenCLI, words_of
from lga_lightning.cli.moments import MomentsCLI
from lga_lightning.exceptions import SettingError
from lga_lightning.job import FinishedEdit

# what Lightning says about any run, or about one in which nothing is trained: true, meant, and no news
EXPECTED = re.compile(
    "Tip: |TPU available|GPU available: False|`Trainer.fit` stopped: `max_epochs=1` reached|Seed set to|"
    "in eval mode at the start of training|"
    "Total length of `list` across ranks is zero|have no `val_dataloader`|isinstance\\(treespec, LeafSpec\\)"
)


def run(args: ArgsType = None) -> FrozenCLI | FinishedEdit | None:
    """Run the command line in this process; errors about the user's input come out as :class:`LGAError`."""
    warnings.filterwarnings("ignore", f".*({EXPECTED.pattern})")
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).addFilter(lambda record: not EXPECTED.search(record.getMessage()))
    transformers_logging.disable_progress_bar()  # "Loading weights" takes no time to speak of
    try:
        words = words_of(args) or []
        verbs: dict[str, Callable[[list[str]], FrozenCLI | FinishedEdit | None]] = {
            "edit": edit,
            "moments": MomentsCLI,
            "compare": ComparisonCLI,
            "facts": list_facts,
            "remove": remove_facts,
        }
        verb = verbs.get(words[0]) if words else None
        return verb(words[1:]) if verb else LGACLI(args)
    except MisconfigurationException as error:
        raise SettingError(str(error)) from error
